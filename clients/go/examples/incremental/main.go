// SPDX-License-Identifier: Apache-2.0

// Command incremental brings an earlier copy of a disk up to date: it copies only what the disk's persistent bitmap marks as written
// since, then clears the bitmap for the next time.
//
//	incremental SERVER DOMAIN DISK BITMAP DESTINATION
//
// The first time there is no bitmap: it is added, and the whole disk is copied.
package main

import (
	"context"
	"fmt"
	"html"
	"log"
	"os"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/virtblock/virtblock/clients/go"
	pb "github.com/virtblock/virtblock/clients/go/virtblockv1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 6 {
		log.Fatal("usage: incremental SERVER DOMAIN DISK BITMAP DESTINATION")
	}
	client, err := virtblock.Dial(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := update(context.Background(), client, os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		log.Fatal(err)
	}
}

func update(ctx context.Context, client *virtblock.Client, domain, disk, bitmap, destination string) error {
	selector := virtblock.ByName(domain)
	listed, err := client.Jobs.ListBlockBitmaps(ctx, &pb.ListBlockBitmapsRequest{Domain: selector, Disk: disk})
	if err != nil {
		return err
	}
	known := slices.ContainsFunc(listed.GetBitmaps(), func(each *pb.BlockBitmap) bool { return each.GetName() == bitmap })
	request := &pb.BlockCopyRequest{
		Domain: selector, Disk: proto.String(disk),
		DestXml: proto.String(fmt.Sprintf("<disk type='file'><source file='%s'/><driver type='qcow2'/></disk>", html.EscapeString(destination))),
	}
	if known {
		request.Flags = virtblock.DOMAIN_BLOCK_COPY_REUSE_EXT
		request.Params = []*pb.TypedParameter{{Field: "virtblock.bitmap", Value: &pb.TypedParameter_StringValue{StringValue: bitmap}}}
	}
	job, err := copyOnce(ctx, client, request)
	if err != nil {
		return err
	}
	// The copy is safe: from here on the bitmap marks what comes next.
	if known {
		_, err = client.Jobs.ClearBlockBitmap(ctx, &pb.ClearBlockBitmapRequest{Domain: selector, Disk: disk, Name: bitmap})
	} else {
		_, err = client.Jobs.AddBlockBitmap(ctx, &pb.AddBlockBitmapRequest{Domain: selector, Disk: disk, Name: bitmap})
	}
	if err == nil {
		fmt.Printf("copied %d bytes\n", job.GetCopiedBytes())
	}
	return err
}

// copyOnce runs a copy to READY and ends it there: the domain stays with its source, the destination is complete.
func copyOnce(ctx context.Context, client *virtblock.Client, request *pb.BlockCopyRequest) (*pb.BlockJob, error) {
	started, err := client.Domain.BlockCopy(ctx, request)
	if err != nil {
		return nil, err
	}
	waited, err := client.Jobs.WaitBlockJob(ctx, &pb.WaitBlockJobRequest{
		JobId: started.GetJob().GetJobId(), States: []pb.BlockJobState{pb.BlockJobState_BLOCK_JOB_STATE_READY},
	})
	if err != nil {
		return nil, err
	}
	if !waited.GetReached() {
		return nil, fmt.Errorf("the copy is %s: %w", waited.GetJob().GetState(), virtblock.FromProto(waited.GetJob().GetError()))
	}
	_, err = client.Domain.BlockJobAbort(ctx, &pb.BlockJobAbortRequest{Domain: request.GetDomain(), Disk: request.Disk})
	return waited.GetJob(), err
}
