# SPDX-License-Identifier: Apache-2.0
"""How a channel is set up, the same for both front ends.

Owns: options, credentials and the retry policy. Invariants: a call is repeated by itself only when that cannot do a
thing twice: reads, and starting calls, which always carry a request_id; each client has connections of its own, so that
a restarted server is found at once and not when somebody else's back-off is over.
"""

from __future__ import annotations

import json

import grpc

from virtblock.client.calls.call import BLOCK_JOB_SERVICE, CONNECT_SERVICE, DOMAIN_SERVICE
from virtblock.client.target import Target, TlsOptions, check_insecure, read_tls_files

MIB = 1024 * 1024

# Reads, and the calls that start a job under a request_id. Of streams none: a watch resumes by its token instead.
REPEATABLE_RPCS: dict[str, tuple[str, ...]] = {
    CONNECT_SERVICE: (
        "GetVersion",
        "GetLibVersion",
        "GetType",
        "GetHostname",
        "GetURI",
        "GetCapabilities",
        "IsAlive",
        "IsSecure",
        "IsEncrypted",
        "ListConnections",
        "DomainLookupByName",
        "DomainLookupByUUID",
        "DomainLookupByID",
        "ListAllDomains",
    ),
    DOMAIN_SERVICE: (
        "GetXMLDesc",
        "GetState",
        "GetInfo",
        "IsActive",
        "IsPersistent",
        "BlockRebase",
        "BlockCopy",
        "BlockPull",
        "BlockCommit",
        "GetBlockJobInfo",
        "GetBlockInfo",
        "BlockStats",
        "ListDisks",
    ),
    BLOCK_JOB_SERVICE: ("GetBlockJob", "ListBlockJobs", "ListBlockBitmaps", "WaitBlockJob"),
}

_RETRY_POLICY = {
    # Under a second in all: who starts the client before the server wants to be told, not to wait.
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def service_config() -> str:
    """gRPC's service config: which calls are repeated when the server is not reached."""
    names = [{"service": service, "method": rpc} for service, rpcs in REPEATABLE_RPCS.items() for rpc in rpcs]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}]})


def channel_options(target: Target, tls: TlsOptions | None) -> list[tuple[str, str | int]]:
    """gRPC's options for a channel to the target."""
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", service_config()),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # A server that vanished without a word is noticed, also by a stream that only waits. Servers allow no less
        # than 10 s.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", 16 * MIB),
    ]
    if target.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def credentials(target: Target, tls: TlsOptions | None, *, insecure: bool) -> grpc.ChannelCredentials | None:
    """What to encrypt the link with; None for a unix socket and for `insecure`. Raises VirError INVALID_ARG."""
    if insecure:
        check_insecure(target, tls)
        return None
    ca, key, cert = read_tls_files(target, tls)
    if target.is_unix:
        return None
    return grpc.ssl_channel_credentials(ca, key, cert)
