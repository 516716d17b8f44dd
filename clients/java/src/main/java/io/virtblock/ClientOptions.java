// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.common.base.Throwables;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.util.logging.Level;
import java.util.logging.Logger;

/** How {@link Client#open(String, ClientOptions)} connects. */
public final class ClientOptions {
    // A server that vanished without a word is noticed, also by a stream that only waits.
    private static final long KEEPALIVE_TIME_S = 30;
    private static final long KEEPALIVE_TIMEOUT_S = 10;
    private static final int MESSAGE_BYTES_MAX = 16 << 20;
    // Warns at each connection that unix sockets have no SO_KEEPALIVE. Kept here, because Java forgets a logger that nobody holds.
    private static final Logger BOOTSTRAP = Logger.getLogger("io.grpc.netty.shaded.io.netty.bootstrap.Bootstrap");

    boolean readOnly;
    String connectionUri = "";
    private boolean insecure;
    private Tls tls = Tls.NONE;

    private record Tls(File authorities, File certificate, File key, String serverName) {
        static final Tls NONE = new Tls(null, null, null, null);
    }

    /** Takes the socket beside, PATH-ro, which refuses what changes anything. */
    public ClientOptions readOnly() {
        readOnly = true;
        return this;
    }

    /** Goes without encryption, to this machine only. */
    public ClientOptions insecure() {
        insecure = true;
        return this;
    }

    /** Chooses the hypervisor connection, for example {@code qemu:///system}, of every request that names none. */
    public ClientOptions connectionUri(String uri) {
        connectionUri = uri;
        return this;
    }

    /**
     * Names PEM files: the authorities that may sign for the server (null: Java's own), and the certificate and key (PKCS #8) that
     * the client shows of itself (both or null). serverName is the name in the server's certificate; null: the host.
     */
    public ClientOptions tls(File authorities, File certificate, File key, String serverName) {
        tls = new Tls(authorities, certificate, key, serverName);
        return this;
    }

    static {
        BOOTSTRAP.setLevel(Level.SEVERE);
    }

    ManagedChannel channel(Target target) throws VirtblockException {
        Failures.require(!insecure || tls == Tls.NONE, "a link is either insecure or has TLS options, not both");
        Failures.require(!insecure || target.isLoopback(),
                "server '%s': insecure is for this machine alone, as in 127.0.0.1:%s", target, target.port());
        Failures.require(tls == Tls.NONE || !target.isSocket(), "server '%s': a unix socket has no TLS", target);
        Failures.require((tls.certificate == null) == (tls.key == null), "a TLS certificate and its key are given both or not at all");
        try {
            ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(target.grpcAddress(), credentials(target))
                    .keepAliveTime(KEEPALIVE_TIME_S, SECONDS).keepAliveTimeout(KEEPALIVE_TIMEOUT_S, SECONDS)
                    .maxInboundMessageSize(MESSAGE_BYTES_MAX).proxyDetector(address -> null)
                    .disableServiceConfigLookUp().disableRetry();
            return (tls.serverName == null ? builder : builder.overrideAuthority(tls.serverName)).build();
        } catch (IOException | RuntimeException error) {
            // gRPC has no one exception for certificates and keys that it cannot read.
            throw Failures.invalid("server '%s' with %s: %s", target, tls, Throwables.getRootCause(error).getMessage());
        }
    }

    private ChannelCredentials credentials(Target target) throws IOException {
        if (insecure || target.isSocket()) {
            return InsecureChannelCredentials.create();
        }
        TlsChannelCredentials.Builder builder = TlsChannelCredentials.newBuilder();
        if (tls.authorities != null) {
            builder.trustManager(tls.authorities);
        }
        return (tls.certificate == null ? builder : builder.keyManager(tls.certificate, tls.key)).build();
    }
}
