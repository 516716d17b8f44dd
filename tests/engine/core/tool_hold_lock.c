/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes the reader's or the writer's lock on an image and holds it until standard input ends: tool_hold_lock reader|writer IMAGE.
 * Prints "held" once it has it; exit code 1 and the error's kind and text when it is refused.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "lock.h"

int main(int argc, char **argv)
{
	struct vb_error error = { 0 };
	enum vb_lock_role role;
	struct vb_policy *policy;
	struct vb_file file;

	if (argc != 3)
		return 2;
	role = strcmp(argv[1], "writer") == 0 ? VB_LOCK_WRITER : VB_LOCK_READER;
	policy = vb_policy_new(NULL, 0, &error);
	if (policy == NULL || vb_policy_open(policy, argv[2], role == VB_LOCK_WRITER ? O_RDWR : O_RDONLY, 0, &file, &error) < 0 ||
	    vb_lock_image(&file, role, &error) < 0) {
		fprintf(stderr, "kind %d: %s: %s\n", (int)error.kind, error.path, error.message);
		return 1;
	}
	printf("held\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	vb_file_close(&file);
	vb_policy_free(policy);
	return 0;
}
