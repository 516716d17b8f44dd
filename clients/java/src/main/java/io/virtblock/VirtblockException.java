// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import io.grpc.Status;

/**
 * A call failed. Decide by libvirt's number, as {@code failure.is(VIR_ERR_NO_DOMAIN)} or in a switch over
 * {@code failure.getError().getCode()}, and for the few failures that libvirt cannot have by the {@link Reason}.
 */
public final class VirtblockException extends Exception {
    private static final long serialVersionUID = 1;

    private final VirtblockError error;
    private final Status.Code statusCode;

    VirtblockException(VirtblockError error, Status status) {
        super(error.getMessage(), status.getCause());
        this.error = error;
        this.statusCode = status.getCode();
    }

    /** An exception of an error that was read, for example that of a failed job. */
    public VirtblockException(VirtblockError error) {
        this(error, Status.UNKNOWN);
    }

    /** libvirt's error, field for field. */
    public VirtblockError getError() {
        return error;
    }

    /** The call's gRPC status; UNKNOWN where nothing was called. */
    public Status.Code getStatusCode() {
        return statusCode;
    }

    /** Whether the error has this number, one of {@link Libvirt}'s VIR_ERR_. */
    public boolean is(int code) {
        return error.getCode() == code;
    }

    /** A {@link VirtblockException}, its cause, out of an iteration, where Java allows no checked one. */
    public static final class Unchecked extends RuntimeException {
        private static final long serialVersionUID = 1;

        Unchecked(VirtblockException cause) {
            super(cause.getMessage(), cause);
        }
    }
}
