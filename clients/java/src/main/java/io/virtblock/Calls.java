// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.CallOptions;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.io.IOException;
import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Every call of a client, over its channel. Invariants: what fails is a {@link VirtblockException}; a call is repeated only when
 * {@link Repeats} lists it. gRPC's own repeating would find a channel that waits a second before it connects again, and give up
 * before that.
 */
record Calls(ManagedChannel channel, Target target, String connectionUri) {
    <Q, A> A unary(MethodDescriptor<Q, A> method, Q request, Duration timeout) throws VirtblockException {
        CallOptions options = options(timeout);
        long pauseMs = Repeats.PAUSE_FIRST_MS;
        for (int attempt = 1; ; attempt++) {
            try {
                return ClientCalls.blockingUnaryCall(awake(), method, options, request);
            } catch (StatusRuntimeException status) {
                VirtblockException failure = failed(status, method);
                boolean isRepeated = attempt < Repeats.ATTEMPT_COUNT_MAX && Repeats.METHODS.contains(method.getFullMethodName());
                if (!isRepeated || failure.getStatusCode() != Status.Code.UNAVAILABLE) {
                    throw failure;
                }
            }
            pause(pauseMs, options, method);
            pauseMs = Math.min(pauseMs * Repeats.PAUSE_GROWTH, Repeats.PAUSE_MAX_MS);
        }
    }

    <Q, A> Messages<A> stream(MethodDescriptor<Q, A> method, Q request, Duration timeout) {
        return new MessageStream<>(
                () -> ClientCalls.blockingServerStreamingCall(awake(), method, options(timeout), request),
                failure -> failed(failure, method));
    }

    VirtblockException failed(StatusRuntimeException failure, MethodDescriptor<?, ?> method) {
        Status status = failure.getStatus();
        if (status.getCause() instanceof IOException) {
            // gRPC says UNKNOWN of a connection that closed just before the call was written to it.
            status = Status.UNAVAILABLE.withDescription(status.getDescription()).withCause(status.getCause());
        }
        if (channel.isShutdown() && status.getCode() == Status.Code.UNAVAILABLE) {
            status = Status.CANCELLED.withDescription("the client is closed");
        }
        return Failures.ofCall(status, failure.getTrailers(), target, method.getBareMethodName());
    }

    /** The channel. Where it could not connect the last time it tries anew now, instead of telling the old failure again. */
    private ManagedChannel awake() {
        if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
            channel.enterIdle();
        }
        return channel;
    }

    /** Waits about that long, and not beyond the deadline, which the next attempt then tells. */
    private void pause(long pauseMs, CallOptions options, MethodDescriptor<?, ?> method) throws VirtblockException {
        long pauseNs = (long) (Duration.ofMillis(pauseMs).toNanos() * ThreadLocalRandom.current().nextDouble(0.8, 1.2));
        long leftNs = options.getDeadline() == null ? pauseNs : options.getDeadline().timeRemaining(NANOSECONDS);
        try {
            NANOSECONDS.sleep(Math.min(pauseNs, leftNs));
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw failed(Status.CANCELLED.withDescription("Thread interrupted").asRuntimeException(), method);
        }
    }

    private static CallOptions options(Duration timeout) {
        return timeout == null ? CallOptions.DEFAULT : CallOptions.DEFAULT.withDeadlineAfter(timeout);
    }
}
