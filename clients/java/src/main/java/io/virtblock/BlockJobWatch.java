// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

import io.grpc.Status;
import io.virtblock.v1.BlockJobEvent;
import io.virtblock.v1.WatchBlockJobsRequest;
import io.virtblock.v1.WatchBlockJobsResponse;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Shows every change of state of block jobs once and in order, over as many streams as it takes: when the connection breaks, the
 * server restarts or the reader was too slow, it goes on by itself where it was. It has no end but a failure or its close.
 */
public final class BlockJobWatch extends Messages<BlockJobEvent> {
    private static final long PAUSE_FIRST_MS = 100;
    private static final long PAUSE_MAX_MS = 5000;
    private static final int DOUBLING_COUNT_MAX = 10;

    private final Calls calls;
    private final WatchBlockJobsRequest.Builder request;
    private final CountDownLatch closed = new CountDownLatch(1);
    // What is to be shown before the stream is read again: a whole snapshot, or the first event.
    private final Queue<BlockJobEvent> pending = new ArrayDeque<>();
    private volatile Messages<WatchBlockJobsResponse> stream;
    private volatile String resumeToken;
    private boolean inSnapshot;
    private boolean isReached;
    private long lastSequence = -1;
    private int failureCount;

    /** Returns with the first event, or with a whole snapshot. */
    BlockJobWatch(Calls calls, WatchBlockJobsRequest request) throws VirtblockException {
        this.calls = calls;
        this.request = Completion.of(request, calls.connectionUri()).toBuilder();
        this.resumeToken = request.getResumeToken();
        open();
        advance();
    }

    /**
     * Goes on after the last event that next has given, in {@code WatchBlockJobsRequest.resume_token}, in another process as well.
     * Empty: nothing was shown yet that one can go on after.
     */
    public String resumeToken() {
        return resumeToken;
    }

    @Override
    public void close() {
        closed.countDown();
        stream.close();
    }

    /** Waits for the next change of a job, or progress where the request asked for it. Never null. */
    @Override
    public BlockJobEvent next() throws VirtblockException {
        while (true) {
            for (BlockJobEvent event = pending.poll(); event != null; event = pending.poll()) {
                resumeToken = event.getResumeToken().isEmpty() ? resumeToken : event.getResumeToken();
                if (event.hasJob() || event.hasProgress()) {
                    return event;
                }
            }
            advance();
        }
    }

    private void advance() throws VirtblockException {
        while (true) {
            try {
                receive();
                return;
            } catch (VirtblockException failure) {
                reopen(failure);
            }
        }
    }

    private void open() {
        inSnapshot = request.getIncludeSnapshot() && request.getResumeToken().isEmpty();
        stream = calls.stream(Methods.WATCH_BLOCK_JOBS, request.build(), null);
        if (closed.getCount() == 0) {
            stream.close();
        }
    }

    /**
     * Takes messages until there is something to show. A snapshot counts only as a whole, because a token from its middle would
     * lose the rest of it.
     */
    private void receive() throws VirtblockException {
        List<BlockJobEvent> snapshot = new ArrayList<>();
        while (true) {
            WatchBlockJobsResponse answer = stream.next();
            if (answer == null) {
                // So ends a server that stops. Another stream tells whether it comes back.
                throw calls.failed(Status.UNAVAILABLE.withDescription("the stream ended").asRuntimeException(), Methods.WATCH_BLOCK_JOBS);
            }
            BlockJobEvent event = answer.getEvent();
            failureCount = 0;
            isReached = true;
            if (!inSnapshot || event.getBookmark().getSnapshotEnd()) {
                inSnapshot = false;
                pending.addAll(snapshot);
                takeLive(event);
                return;
            }
            if (event.hasJob()) {
                snapshot.add(event.toBuilder().clearResumeToken().build());
            }
        }
    }

    private void takeLive(BlockJobEvent event) {
        if (event.hasJob() && event.getSequence() <= lastSequence) {
            // The reader has this change, as a bookmark or an earlier stream told; its token would lead back.
            return;
        }
        if (!event.getResumeToken().isEmpty()) {
            request.setResumeToken(event.getResumeToken()).setIncludeSnapshot(false);
        }
        lastSequence = event.hasProgress() ? lastSequence : Math.max(lastSequence, event.getSequence());
        pending.add(event);
    }

    /** Opens the next stream after one that failed, or throws the failure when another one would not help. */
    private void reopen(VirtblockException failure) throws VirtblockException {
        boolean isOver = closed.getCount() == 0 || Thread.currentThread().isInterrupted();
        if (isOver || !isReached || !helpsToRetry(failure)) {
            close();
            throw failure;
        }
        long pauseMs = Math.min(PAUSE_FIRST_MS << Math.min(failureCount++, DOUBLING_COUNT_MAX), PAUSE_MAX_MS);
        try {
            // Half of it at random, so that all clients of a restarted server do not come back at the same moment.
            closed.await(pauseMs / 2 + ThreadLocalRandom.current().nextLong(pauseMs / 2), MILLISECONDS);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        // Of a closed watch, and on a thread that was interrupted, the new stream is cancelled from its start.
        open();
    }

    private static boolean helpsToRetry(VirtblockException failure) {
        Status.Code code = failure.getStatusCode();
        String reason = failure.getError().getReason();
        // A server that stops cancels its streams; one that is full refuses new ones. Neither says so as libvirt.
        boolean isSilent = reason.isEmpty() && (code == Status.Code.CANCELLED || code == Status.Code.RESOURCE_EXHAUSTED);
        return isSilent || code == Status.Code.UNAVAILABLE || reason.equals(Reason.SLOW_READER);
    }
}
