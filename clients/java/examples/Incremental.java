// SPDX-License-Identifier: Apache-2.0

import static io.virtblock.Libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT;

import io.virtblock.Client;
import io.virtblock.VirtblockError;
import io.virtblock.VirtblockException;
import io.virtblock.v1.AddBlockBitmapRequest;
import io.virtblock.v1.BlockCopyRequest;
import io.virtblock.v1.BlockJob;
import io.virtblock.v1.BlockJobAbortRequest;
import io.virtblock.v1.BlockJobState;
import io.virtblock.v1.ClearBlockBitmapRequest;
import io.virtblock.v1.DomainSelector;
import io.virtblock.v1.ListBlockBitmapsRequest;
import io.virtblock.v1.TypedParameter;
import io.virtblock.v1.WaitBlockJobRequest;
import io.virtblock.v1.WaitBlockJobResponse;

/**
 * Brings an earlier copy of a disk up to date: it copies only what the disk's persistent bitmap marks as written since, then clears the
 * bitmap for the next time: Incremental SERVER DOMAIN DISK BITMAP DESTINATION
 *
 * <p>The first time there is no bitmap: it is added, and the whole disk is copied.
 */
public final class Incremental {
    private Incremental() {}

    /** See the class. */
    public static void main(String[] arguments) {
        if (arguments.length != 5) {
            System.err.println("usage: Incremental SERVER DOMAIN DISK BITMAP DESTINATION");
            System.exit(1);
        }
        try (Client client = Client.open(arguments[0])) {
            update(client, arguments[1], arguments[2], arguments[3], arguments[4]);
        } catch (VirtblockException failure) {
            System.err.println(failure.getMessage());
            System.exit(1);
        }
    }

    private static void update(Client client, String name, String disk, String bitmap, String destination) throws VirtblockException {
        DomainSelector domain = Client.byName(name);
        ListBlockBitmapsRequest ofDisk = ListBlockBitmapsRequest.newBuilder().setDomain(domain).setDisk(disk).build();
        boolean isKnown = client.jobs().listBlockBitmaps(ofDisk).getBitmapsList().stream().anyMatch(each -> each.getName().equals(bitmap));
        BlockCopyRequest.Builder request = BlockCopyRequest.newBuilder().setDomain(domain).setDisk(disk)
                .setDestXml("<disk type='file'><source file='%s'/><driver type='qcow2'/></disk>".formatted(quoted(destination)));
        if (isKnown) {
            request.setFlags(VIR_DOMAIN_BLOCK_COPY_REUSE_EXT)
                    .addParams(TypedParameter.newBuilder().setField("virtblock.bitmap").setStringValue(bitmap));
        }
        BlockJob job = copyOnce(client, request.build());
        // The copy is safe: from here on the bitmap marks what comes next.
        if (isKnown) {
            client.jobs().clearBlockBitmap(ClearBlockBitmapRequest.newBuilder().setDomain(domain).setDisk(disk).setName(bitmap).build());
        } else {
            client.jobs().addBlockBitmap(AddBlockBitmapRequest.newBuilder().setDomain(domain).setDisk(disk).setName(bitmap).build());
        }
        System.out.printf("copied %d bytes%n", job.getCopiedBytes());
    }

    /** Runs a copy to READY and ends it there: the domain stays with its source, the destination is complete. */
    private static BlockJob copyOnce(Client client, BlockCopyRequest request) throws VirtblockException {
        BlockJob started = client.domain().blockCopy(request).getJob();
        WaitBlockJobResponse waited = client.jobs().waitBlockJob(WaitBlockJobRequest.newBuilder()
                .setJobId(started.getJobId()).addStates(BlockJobState.BLOCK_JOB_STATE_READY).build());
        if (!waited.getReached()) {
            System.err.printf("the copy is %s%n", waited.getJob().getState());
            throw new VirtblockException(new VirtblockError(waited.getJob().getError()));
        }
        client.domain().blockJobAbort(
                BlockJobAbortRequest.newBuilder().setDomain(request.getDomain()).setDisk(request.getDisk()).build());
        return waited.getJob();
    }

    private static String quoted(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&apos;");
    }
}
