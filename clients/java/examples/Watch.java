// SPDX-License-Identifier: Apache-2.0

import io.virtblock.BlockJobWatch;
import io.virtblock.Client;
import io.virtblock.VirtblockException;
import io.virtblock.v1.BlockJob;
import io.virtblock.v1.BlockJobEvent;
import io.virtblock.v1.WatchBlockJobsRequest;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/**
 * Prints every change of every block job. It misses none while the server restarts, and none while it is down itself:
 * Watch SERVER TOKEN_FILE [COUNT]
 *
 * <p>TOKEN_FILE remembers how far it came; start it again with the same file and it goes on there. COUNT: stop after that many changes.
 */
public final class Watch {
    private Watch() {}

    /** See the class. */
    public static void main(String[] arguments) throws IOException {
        if (arguments.length < 2) {
            System.err.println("usage: Watch SERVER TOKEN_FILE [COUNT]");
            System.exit(1);
        }
        long count = arguments.length > 2 ? Long.parseLong(arguments[2]) : Long.MAX_VALUE;
        try (Client client = Client.open(arguments[0])) {
            follow(client, Path.of(arguments[1]), count);
        } catch (VirtblockException | VirtblockException.Unchecked failure) {
            System.err.println(failure.getMessage());
            System.exit(1);
        }
    }

    private static void follow(Client client, Path tokenFile, long count) throws VirtblockException, IOException {
        WatchBlockJobsRequest request = WatchBlockJobsRequest.newBuilder()
                .setResumeToken(Files.exists(tokenFile) ? Files.readString(tokenFile) : "").setIncludeSnapshot(true).build();
        try (BlockJobWatch watch = client.watchBlockJobs(request)) {
            System.out.printf("watching %s%n", client.target());
            long left = count;
            for (BlockJobEvent event : watch) {
                BlockJob job = event.getJob();
                System.out.printf("%d: %s %s %s%n", event.getSequence(), job.getDomain().getName(), job.getDisk(), job.getState());
                // Remembered after it was handled: after a crash the last one may come once more, and none is lost.
                remember(tokenFile, watch.resumeToken());
                left--;
                if (left == 0) {
                    return;
                }
            }
        }
    }

    /** Replaces the file in one step, so that a crash leaves either token and never half of one. */
    private static void remember(Path tokenFile, String token) throws IOException {
        if (token.isEmpty()) {
            // Within a snapshot there is nothing to go on after; what was stored stays.
            return;
        }
        Path fresh = tokenFile.resolveSibling(tokenFile.getFileName() + ".new");
        Files.writeString(fresh, token);
        Files.move(fresh, tokenFile, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    }
}
