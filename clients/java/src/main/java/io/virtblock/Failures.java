// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import com.google.common.base.Throwables;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.virtblock.v1.ErrorDomain;
import io.virtblock.v1.ErrorLevel;
import io.virtblock.v1.ErrorNumber;
import io.virtblock.v1.VirError;
import java.io.FileNotFoundException;
import java.util.Map;

/** Makes the exceptions: of a failed call the server's own error, else what libvirt's own remote client would say. */
final class Failures {
    // What the kernel said of a socket that nobody serves; gRPC passes it on in words alone.
    private static final Map<String, Integer> CONNECT_ERRNOS = Map.of("No such file or directory", 2, "Permission denied", 13,
            "Connection timed out", 110, "Connection refused", 111, "No route to host", 113);

    private Failures() {}

    static void require(boolean condition, String format, Object... arguments) throws VirtblockException {
        if (!condition) {
            throw invalid(format, arguments);
        }
    }

    static VirtblockException invalid(String format, Object... arguments) {
        String text = format.formatted(arguments);
        VirError.Builder error = rpcError(ErrorNumber.ERR_INVALID_ARG, "invalid argument: " + text);
        return new VirtblockException(new VirtblockError(error.setStr1("invalid argument: %s").setStr2(text).build()));
    }

    static VirtblockException ofCall(Status status, Metadata trailers, Target server, String rpc) {
        VirtblockError sent = sentByServer(status, trailers);
        return new VirtblockException(sent != null ? sent : withoutDetail(status, server, rpc), status);
    }

    private static VirtblockError sentByServer(Status status, Metadata trailers) {
        VirError error = null;
        String reason = "";
        try {
            for (Any detail : StatusProto.fromStatusAndTrailers(status, trailers).getDetailsList()) {
                error = detail.is(VirError.class) ? detail.unpack(VirError.class) : error;
                reason = detail.is(ErrorInfo.class) ? detail.unpack(ErrorInfo.class).getReason() : reason;
            }
        } catch (InvalidProtocolBufferException | IllegalArgumentException broken) {
            // Not this contract's server; the status is all there is.
            return null;
        }
        return error == null ? null : new VirtblockError(error, reason);
    }

    private static VirtblockError withoutDetail(Status status, Target server, String rpc) {
        String text = status.getDescription();
        VirError.Builder error = switch (status.getCode()) {
            case UNAVAILABLE -> notReached(status, server);
            case DEADLINE_EXCEEDED -> rpcError(ErrorNumber.ERR_OPERATION_TIMEOUT,
                    "%s: virtblockd at %s did not answer in time; what it was asked to do may go on".formatted(rpc, server));
            case UNIMPLEMENTED -> rpcError(ErrorNumber.ERR_NO_SUPPORT,
                    "virtblockd at %s does not know the call %s: %s; it is older than this client".formatted(server, rpc, text));
            case CANCELLED -> rpcError(ErrorNumber.ERR_OPERATION_ABORTED,
                    "%s: the call to virtblockd at %s was cancelled: %s".formatted(rpc, server, text));
            default -> rpcError(ErrorNumber.ERR_RPC,
                    "%s: the call to virtblockd at %s failed with %s: %s".formatted(rpc, server, status.getCode(), text));
        };
        return new VirtblockError(error.setStr1("%s").setStr2(error.getMessage()).build());
    }

    private static VirError.Builder notReached(Status status, Target server) {
        String text = causeOf(status);
        String known = CONNECT_ERRNOS.keySet().stream().filter(text::contains).findAny().orElse(null);
        return rpcError(ErrorNumber.ERR_SYSTEM_ERROR,
                "cannot connect to virtblockd at %s: %s; is it running? start it with: virtblockd --listen %s"
                        .formatted(server, known == null ? text : known, server.readWrite()))
                .setInt1(CONNECT_ERRNOS.getOrDefault(String.valueOf(known), -1));
    }

    private static String causeOf(Status status) {
        String text = String.valueOf(status.getDescription()).lines().findFirst().orElse("");
        Throwable root = status.getCause() == null ? null : Throwables.getRootCause(status.getCause());
        if (root instanceof FileNotFoundException) {
            // Netty has no words for it.
            return "No such file or directory";
        }
        return root == null || root.getMessage() == null ? text : text + ": " + root.getMessage();
    }

    private static VirError.Builder rpcError(ErrorNumber number, String message) {
        return VirError.newBuilder().setNumber(number).setDomain(ErrorDomain.FROM_RPC).setLevel(ErrorLevel.ERR_ERROR)
                .setMessage(message).setInt1(-1).setInt2(-1);
    }
}
