// SPDX-License-Identifier: Apache-2.0

// Command watch prints every change of every block job. It misses none while the server restarts, and none while it is down itself:
//
//	watch SERVER TOKEN_FILE [COUNT]
//
// TOKEN_FILE remembers how far it came; start it again with the same file and it goes on there. COUNT: stop after that many changes.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/virtblock/virtblock/clients/go"
	pb "github.com/virtblock/virtblock/clients/go/virtblockv1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: watch SERVER TOKEN_FILE [COUNT]")
	}
	count := -1
	if len(os.Args) > 3 {
		var err error
		if count, err = strconv.Atoi(os.Args[3]); err != nil {
			log.Fatal(err)
		}
	}
	if err := follow(os.Args[1], os.Args[2], count); err != nil {
		log.Fatal(err)
	}
}

func follow(server, tokenFile string, count int) error {
	token, err := os.ReadFile(tokenFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	client, err := virtblock.Dial(server)
	if err != nil {
		return err
	}
	defer client.Close()
	watch, err := client.WatchBlockJobs(context.Background(), &pb.WatchBlockJobsRequest{ResumeToken: string(token), IncludeSnapshot: true})
	if err != nil {
		return err
	}
	defer watch.Close()
	fmt.Printf("watching %s\n", client.Target())
	for event, err := range watch.All() {
		if err != nil {
			return err
		}
		job := event.GetJob()
		fmt.Printf("%d: %s %s %s\n", event.GetSequence(), job.GetDomain().GetName(), job.GetDisk(), job.GetState())
		// Remembered after it was handled: after a crash the last one may come once more, and none is lost.
		if err := remember(tokenFile, watch.ResumeToken()); err != nil {
			return err
		}
		if count--; count == 0 {
			return nil
		}
	}
	return nil
}

// remember replaces the file in one step, so that a crash leaves either token and never half of one.
func remember(path, token string) error {
	if token == "" {
		// Within a snapshot there is nothing to go on after; what was stored stays.
		return nil
	}
	if err := os.WriteFile(path+".new", []byte(token), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
