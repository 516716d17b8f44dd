// SPDX-License-Identifier: Apache-2.0

package io.virtblock;

import io.virtblock.v1.DomainSelector;
import io.virtblock.v1.WatchBlockJobsRequest;

/**
 * A connection to a virtblock server: libvirt's block-job calls, with libvirt's flags and errors, on running and on shut-off
 * virtual machines. Any number of threads may use it.
 *
 * <p>A call is named after libvirt's, takes the contract's request and fails with {@link VirtblockException}:
 *
 * <pre>{@code
 * try (Client client = Client.open("unix:/run/virtblock/virtblock-sock")) {
 *     BlockRebaseResponse started = client.domain().blockRebase(BlockRebaseRequest.newBuilder()
 *             .setDomain(Client.byName("guest")).setDisk("vda").setBase("/images/copy.qcow2")
 *             .setFlags(VIR_DOMAIN_BLOCK_REBASE_COPY).build());
 * }
 * }</pre>
 *
 * <p>An interrupted thread cancels its call. Neither that nor a timeout ends a job.
 */
public final class Client implements AutoCloseable {
    private final Calls calls;

    private Client(Calls calls) {
        this.calls = calls;
    }

    /** {@link #open(String, ClientOptions)} with nothing special. */
    public static Client open(String server) throws VirtblockException {
        return open(server, new ClientOptions());
    }

    /**
     * Makes a client of the server at {@code unix:PATH}, an absolute path, or {@code HOST:PORT} (TLS). An empty text means
     * {@code $VIRTBLOCK_SERVER}, else the system's socket, else that of the user's own daemon. The server is not contacted
     * before the first call. Fails with VIR_ERR_INVALID_ARG.
     */
    public static Client open(String server, ClientOptions options) throws VirtblockException {
        Target target = Target.parse(server, options.readOnly);
        return new Client(new Calls(options.channel(target), target, options.connectionUri));
    }

    /** libvirt's calls on a connection: look-ups, lists, definitions, events. */
    public ConnectService connection() {
        return new ConnectService(calls, null);
    }

    /** libvirt's calls on a domain, the block jobs among them. */
    public DomainService domain() {
        return new DomainService(calls, null);
    }

    /** What libvirt lacks: jobs by id, kept after their end. */
    public BlockJobService jobs() {
        return new BlockJobService(calls, null);
    }

    /**
     * Opens a watch and waits until the server has registered it: a job that is started afterwards cannot be missed. A server
     * that cannot be reached now is an error at once; later the watch bears it.
     */
    public BlockJobWatch watchBlockJobs(WatchBlockJobsRequest request) throws VirtblockException {
        return new BlockJobWatch(calls, request);
    }

    /** The server's address. */
    public String target() {
        return calls.target().toString();
    }

    /** Ends the connection and, with VIR_ERR_OPERATION_ABORTED, every call on it. */
    @Override
    public void close() {
        calls.channel().shutdownNow();
    }

    /** Selects a domain by its name. */
    public static DomainSelector byName(String name) {
        return DomainSelector.newBuilder().setName(name).build();
    }

    /** Selects a domain by its UUID, which never changes. */
    public static DomainSelector byUuid(String uuid) {
        return DomainSelector.newBuilder().setUuid(uuid).build();
    }

    /** Selects an active domain by its id. */
    public static DomainSelector byId(int id) {
        return DomainSelector.newBuilder().setId(id).build();
    }
}
