# SPDX-License-Identifier: Apache-2.0
"""From libvirt's error number to the gRPC code: the one table.

Owns: the translation and nothing around it. Invariants: total over the contract's `ErrorNumber`, and for a number
that this version does not know the answer is INTERNAL; the table says what `proto/README.md` says. A SYSTEM_ERROR is
told apart by int1, which is errno.
"""

from __future__ import annotations

import errno

import grpc

from virtblock.server.core.errors import VirError
from virtblock.v1 import libvirt_enums_pb2 as enums

_NUMBERS_BY_CODE: dict[grpc.StatusCode, tuple[enums.ErrorNumber.ValueType, ...]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (
        enums.ERR_INVALID_ARG,
        enums.ERR_INVALID_DOMAIN,
        enums.ERR_ARGUMENT_UNSUPPORTED,
        enums.ERR_NO_SOURCE,
        enums.ERR_XML_ERROR,
        enums.ERR_XML_DETAIL,
        enums.ERR_XML_INVALID_SCHEMA,
    ),
    grpc.StatusCode.NOT_FOUND: (
        enums.ERR_NO_DOMAIN,
        enums.ERR_NO_DOMAIN_SNAPSHOT,
        enums.ERR_NO_DOMAIN_CHECKPOINT,
        enums.ERR_NO_STORAGE_VOL,
        enums.ERR_DEVICE_MISSING,
    ),
    grpc.StatusCode.ALREADY_EXISTS: (enums.ERR_DOM_EXIST,),
    grpc.StatusCode.FAILED_PRECONDITION: (
        enums.ERR_OPERATION_INVALID,
        enums.ERR_BLOCK_COPY_ACTIVE,
        enums.ERR_OPERATION_UNSUPPORTED,
        enums.ERR_CONFIG_UNSUPPORTED,
        enums.ERR_SNAPSHOT_REVERT_RISKY,
        enums.ERR_CHECKPOINT_INCONSISTENT,
    ),
    grpc.StatusCode.ABORTED: (enums.ERR_OPERATION_TIMEOUT, enums.ERR_OPERATION_ABORTED, enums.ERR_RESOURCE_BUSY),
    grpc.StatusCode.PERMISSION_DENIED: (enums.ERR_OPERATION_DENIED, enums.ERR_ACCESS_DENIED),
    grpc.StatusCode.UNAUTHENTICATED: (enums.ERR_AUTH_FAILED, enums.ERR_AUTH_CANCELLED, enums.ERR_AUTH_UNAVAILABLE),
    grpc.StatusCode.UNIMPLEMENTED: (enums.ERR_NO_SUPPORT,),
    grpc.StatusCode.OUT_OF_RANGE: (enums.ERR_OVERFLOW,),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (enums.ERR_NO_MEMORY,),
    grpc.StatusCode.UNAVAILABLE: (enums.ERR_NO_CONNECT, enums.ERR_INVALID_CONN, enums.ERR_RPC),
}

CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {
    **dict.fromkeys(enums.ErrorNumber.values(), grpc.StatusCode.INTERNAL),
    **{number: code for code, numbers in _NUMBERS_BY_CODE.items() for number in numbers},
}

CODE_BY_ERRNO: dict[int, grpc.StatusCode] = {
    errno.ENOENT: grpc.StatusCode.NOT_FOUND,
    errno.EACCES: grpc.StatusCode.PERMISSION_DENIED,
    errno.EPERM: grpc.StatusCode.PERMISSION_DENIED,
    errno.EEXIST: grpc.StatusCode.ALREADY_EXISTS,
    errno.ENOSPC: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EDQUOT: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def code_of(error: VirError) -> grpc.StatusCode:
    """The gRPC code for generic tools; programs that know libvirt decide by the number."""
    if error.number == enums.ERR_SYSTEM_ERROR:
        return CODE_BY_ERRNO.get(error.int1, grpc.StatusCode.INTERNAL)
    return CODE_BY_NUMBER.get(error.number, grpc.StatusCode.INTERNAL)
