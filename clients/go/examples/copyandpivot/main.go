// SPDX-License-Identifier: Apache-2.0

// Command copyandpivot copies a domain's disk while showing how far it is, and lets the domain go on with the copy:
//
//	copyandpivot SERVER DOMAIN DISK DESTINATION
//
// The destination must not exist. Ctrl-C gives the copy up: the domain stays with its source.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	"google.golang.org/protobuf/proto"

	"github.com/virtblock/virtblock/clients/go"
	pb "github.com/virtblock/virtblock/clients/go/virtblockv1"
)

const reportIntervalMs = 1000

func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("usage: copyandpivot SERVER DOMAIN DISK DESTINATION")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := copyAndPivot(ctx, os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	if errors.Is(err, virtblock.ERR_BLOCK_COPY_ACTIVE) {
		log.Print("a job runs on this disk: end it by BlockJobAbort first")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func copyAndPivot(ctx context.Context, server, domain, disk, destination string) error {
	client, err := virtblock.Dial(server)
	if err != nil {
		return err
	}
	defer client.Close()
	started, err := client.Domain.BlockRebase(ctx, &pb.BlockRebaseRequest{
		Domain: virtblock.ByName(domain), Disk: proto.String(disk), Base: proto.String(destination),
		Flags: virtblock.DOMAIN_BLOCK_REBASE_COPY,
	})
	if err != nil {
		return err
	}
	abort := &pb.BlockJobAbortRequest{Domain: virtblock.ByName(domain), Disk: proto.String(disk)}
	if err := untilReady(ctx, client, started.GetJob().GetJobId()); err != nil {
		if ctx.Err() != nil {
			_, aborted := client.Domain.BlockJobAbort(context.Background(), abort)
			return errors.Join(errors.New("given up: the domain stays with its source"), aborted)
		}
		return err
	}
	abort.Flags = virtblock.DOMAIN_BLOCK_JOB_ABORT_PIVOT
	ended, err := client.Domain.BlockJobAbort(ctx, abort)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s now uses %s\n", ended.GetJob().GetState(), domain, destination)
	return nil
}

// untilReady returns when every byte is on the destination.
func untilReady(ctx context.Context, client *virtblock.Client, jobID string) error {
	for {
		// The wait is at the server; when its time passes without READY, the answer has the figures of the moment.
		waited, err := client.Jobs.WaitBlockJob(ctx, &pb.WaitBlockJobRequest{
			JobId: jobID, States: []pb.BlockJobState{pb.BlockJobState_BLOCK_JOB_STATE_READY}, TimeoutMs: reportIntervalMs,
		})
		if err != nil {
			return err
		}
		job := waited.GetJob()
		fmt.Printf("%s: %d of %d bytes, %d bytes/s, %d s left\n", job.GetState(), job.GetCur(), job.GetEnd(), job.GetRateBytesPerS(), job.GetEtaS())
		switch {
		case waited.GetReached():
			return nil
		case job.GetError() != nil:
			return virtblock.FromProto(job.GetError())
		case job.GetEndTime() != nil:
			return fmt.Errorf("the job was ended by somebody else: %s %s", job.GetState(), job.GetReason())
		}
	}
}
