// SPDX-License-Identifier: Apache-2.0

// Command list connects and prints the domains and their disks: list SERVER
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/virtblock/virtblock/clients/go"
	pb "github.com/virtblock/virtblock/clients/go/virtblockv1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: list SERVER")
	}
	if err := list(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func list(server string) error {
	client, err := virtblock.Dial(server, virtblock.WithReadOnly())
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	found, err := client.Connect.ListAllDomains(ctx, &pb.ListAllDomainsRequest{})
	if err != nil {
		return err
	}
	for _, domain := range found.GetDomains() {
		fmt.Printf("%s %s %s\n", domain.GetUuid(), domain.GetName(), domain.GetState())
		disks, err := client.Domain.ListDisks(ctx, &pb.ListDisksRequest{Domain: virtblock.ByUUID(domain.GetUuid())})
		if err != nil {
			return err
		}
		for _, disk := range disks.GetDisks() {
			fmt.Printf("  %s %s %s, %d bytes\n", disk.GetTarget(), disk.GetFormat(), disk.GetSourcePath(), disk.GetCapacityBytes())
		}
	}
	return nil
}
