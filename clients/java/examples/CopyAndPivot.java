// SPDX-License-Identifier: Apache-2.0

import static io.virtblock.Libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT;
import static io.virtblock.Libvirt.VIR_DOMAIN_BLOCK_REBASE_COPY;
import static io.virtblock.Libvirt.VIR_ERR_BLOCK_COPY_ACTIVE;

import io.virtblock.Client;
import io.virtblock.VirtblockError;
import io.virtblock.VirtblockException;
import io.virtblock.v1.BlockJob;
import io.virtblock.v1.BlockJobAbortRequest;
import io.virtblock.v1.BlockJobState;
import io.virtblock.v1.BlockRebaseRequest;
import io.virtblock.v1.WaitBlockJobRequest;
import io.virtblock.v1.WaitBlockJobResponse;

/**
 * Copies a domain's disk while showing how far it is, and lets the domain go on with the copy: CopyAndPivot SERVER DOMAIN DISK DESTINATION
 *
 * <p>The destination must not exist. Ctrl-C gives the copy up: the domain stays with its source.
 */
public final class CopyAndPivot {
    private static final int REPORT_INTERVAL_MS = 1000;

    private static volatile boolean isCopying;

    private CopyAndPivot() {}

    /** See the class. */
    public static void main(String[] arguments) {
        if (arguments.length != 4) {
            System.err.println("usage: CopyAndPivot SERVER DOMAIN DISK DESTINATION");
            System.exit(1);
        }
        BlockJobAbortRequest abort = BlockJobAbortRequest.newBuilder()
                .setDomain(Client.byName(arguments[1])).setDisk(arguments[2]).build();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> giveUp(arguments[0], abort)));
        try (Client client = Client.open(arguments[0])) {
            copyAndPivot(client, abort, arguments[3]);
        } catch (VirtblockException failure) {
            if (failure.is(VIR_ERR_BLOCK_COPY_ACTIVE)) {
                System.err.println("a job runs on this disk: end it by BlockJobAbort first");
            }
            System.err.println(failure.getMessage());
            System.exit(1);
        }
    }

    private static void copyAndPivot(Client client, BlockJobAbortRequest abort, String destination) throws VirtblockException {
        BlockJob started = client.domain().blockRebase(BlockRebaseRequest.newBuilder()
                .setDomain(abort.getDomain()).setDisk(abort.getDisk()).setBase(destination)
                .setFlags(VIR_DOMAIN_BLOCK_REBASE_COPY).build()).getJob();
        isCopying = true;
        try {
            untilReady(client, started.getJobId());
        } finally {
            isCopying = false;
        }
        BlockJobAbortRequest pivot = abort.toBuilder().setFlags(VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT).build();
        BlockJob ended = client.domain().blockJobAbort(pivot).getJob();
        System.out.printf("%s: %s now uses %s%n", ended.getState(), abort.getDomain().getName(), destination);
    }

    /** Returns when every byte is on the destination. */
    private static void untilReady(Client client, String jobId) throws VirtblockException {
        // The wait is at the server; when its time passes without READY, the answer has the figures of the moment.
        WaitBlockJobRequest request = WaitBlockJobRequest.newBuilder()
                .setJobId(jobId).addStates(BlockJobState.BLOCK_JOB_STATE_READY).setTimeoutMs(REPORT_INTERVAL_MS).build();
        while (true) {
            WaitBlockJobResponse waited = client.jobs().waitBlockJob(request);
            BlockJob job = waited.getJob();
            System.out.printf("%s: %d of %d bytes, %d bytes/s, %d s left%n",
                    job.getState(), job.getCur(), job.getEnd(), job.getRateBytesPerS(), job.getEtaS());
            if (waited.getReached()) {
                return;
            }
            if (job.hasError()) {
                throw new VirtblockException(new VirtblockError(job.getError()));
            }
            if (job.hasEndTime()) {
                System.err.printf("the job was ended: %s %s%n", job.getState(), job.getReason());
                System.exit(1);
            }
        }
    }

    /** Ctrl-C: the program ends, so the job is ended too, over a connection of its own. */
    private static void giveUp(String server, BlockJobAbortRequest abort) {
        if (!isCopying) {
            return;
        }
        try (Client client = Client.open(server)) {
            client.domain().blockJobAbort(abort);
            System.err.println("given up: the domain stays with its source");
        } catch (VirtblockException failure) {
            System.err.println(failure.getMessage());
        }
    }
}
