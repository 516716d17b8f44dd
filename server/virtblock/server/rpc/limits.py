# SPDX-License-Identifier: Apache-2.0
"""What one peer may ask of the server: every bound of the wire, with its reason, in one place.

Owns: numbers only. Invariant: nothing that a peer can make grow is without a bound here.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# The largest request is a domain's or a destination's XML; real ones are tens of KiB.
REQUEST_BYTES_MAX = 1 * MIB
# The largest answers are pages of 1000 jobs and lists of thousands of domains, below 1 KiB each.
RESPONSE_BYTES_MAX = 16 * MIB
# A caller's headers are a handful of short lines. Above the soft bound requests are refused at random, above the hard
# one always; both are grpc's own defaults, written down so that a new default changes nothing.
METADATA_BYTES_SOFT = 8 * KIB
METADATA_BYTES_HARD = 16 * KIB
# The status travels in one header, in base64, next to its message; together they must stay below what clients take, 8
# KiB.
STATUS_BYTES_MAX = 4 * KIB
# The message's part of the same header block, counted percent-encoded as the wire has it.
STATUS_TEXT_BYTES_MAX = 1 * KIB
# Room in the metadata of an ErrorInfo for one value, e.g. a path that is part of the error.
STATUS_METADATA_VALUE_BYTES_MAX = 256

# Calls at a time on one connection, as the HTTP/2 settings announce it; without it grpc announces no bound at all. A
# control plane with a stream per domain shares connections; more streams wait in the client.
CONNECTION_STREAMS_MAX = 100
# Calls at a time on one listener, streams included. Above it grpc answers RESOURCE_EXHAUSTED by itself.
LISTENER_CALLS_MAX = 2000

# A peer that connects and says nothing is let go after this time; grpc's default is two minutes.
HANDSHAKE_TIMEOUT_MS = 5_000
# A dead peer (no FIN: power, network) is found after time + timeout.
KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
# Clients may ping as often as every 10 s, also while they only wait on a stream; a faster one is told GOAWAY.
CLIENT_PING_INTERVAL_MIN_MS = 10_000
CLIENT_PING_STRIKES_MAX = 3
# A connection without any call in it for this long is closed; clients open it anew by themselves.
CONNECTION_IDLE_MS_MAX = 10 * 60 * 1000

# Threads for calls that may wait for a disk, a lock or a hypervisor. libvirtd has 20 for the same end.
BLOCKING_THREAD_COUNT = 16
# Of them, for calls on one domain. A hypervisor works on one call of a domain at a time, and may not answer at all.
DOMAIN_THREADS_MAX = 4
# Threads for calls that only look into memory or the store, which so answer while all of the others wait. libvirtd
# has 5.
CHEAP_THREAD_COUNT = 4
# Calls that wait for a thread of one pool. The next is told RESOURCE_BUSY at once rather than queued beyond its
# patience.
POOL_QUEUE_MAX = 256

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", RESPONSE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_SOFT),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_HARD),
    ("grpc.max_concurrent_streams", CONNECTION_STREAMS_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MIN_MS),
    ("grpc.http2.max_ping_strikes", CLIENT_PING_STRIKES_MAX),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS_MAX),
    # Two servers on one port would share its connections by chance; the second is to fail instead.
    ("grpc.so_reuseport", 0),
)
