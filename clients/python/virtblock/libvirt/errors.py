# SPDX-License-Identifier: Apache-2.0
"""libvirtError, the last error of each thread, and the error handler, as libvirt-python has them.

Owns: everything that tells of a failure. Invariants: each failed call sets its thread's last error, tells the handler
once and raises; a call that succeeds leaves no last error behind; `err` is libvirt's nine fields, or None.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from virtblock.client import VirError
from virtblock.libvirt.gen.constants import (
    VIR_ERR_INTERNAL_ERROR,
    VIR_ERR_INVALID_ARG,
    VIR_ERR_INVALID_CONN,
    VIR_ERR_NO_SUPPORT,
    VIR_ERR_OK,
    VIR_ERR_OPERATION_DENIED,
    VIR_ERR_WARNING,
    VIR_FROM_DOMAIN,
)

RawError = tuple[int, int, str, int, str | None, str | None, str | None, int, int]
"""Number, domain, message, level, str1, str2, str3, int1, int2."""

Rewording = tuple[tuple[str, str], ...]
"""Pairs of texts: the first becomes the second."""

VIR_ERR_ERROR = 2
# How libvirt's default handler calls the domains of its errors, by their numbers.
_DOMAIN_NAMES = (
    "", "Xen Driver", "Xen Daemon", "Xen Store", "S-Expression", "XML Util", "Domain", "XML-RPC", "Proxy Daemon",
    "Config File", "QEMU Driver", "Network", "Test Driver", "Remote Driver", "OpenVZ Driver", "Xen XM Driver",
    "Linux Statistics", "LXC Driver", "Storage Driver", "Network Driver", "Domain Config", "User Mode Linux Driver",
    "Node Device Driver", "Xen Inotify Driver", "Security Driver", "VirtualBox Driver", "Network Interface Driver",
    "Open Nebula Driver", "ESX Driver", "Power Hypervisor Driver", "Secrets Driver", "CPU Driver", "XenAPI Driver",
    "Network Filter Driver", "Lifecycle Hook", "Domain Snapshot", "Audit Utils", "Sysinfo Utils", "I/O Stream Utils",
    "VMware Driver", "Event Loop", "Xen Light Driver", "Lock Driver", "Hyper-V Driver", "Capabilities Utils",
    "URI Utils", "Authentication Utils", "DBus Utils", "Parallels Cloud Server", "Device Config",
    "SSH transport layer", "Lock Space", "Init control", "Identity", "Cgroup", "Access Manager", "Systemd", "Bhyve",
    "Crypto", "Firewall", "Polkit", "Thread jobs", "Admin Interface", "Log Manager", "Xen XL Config", "Perf",
    "Libssh transport layer", "Resource control", "FirewallD", "Domain Checkpoint", "TPM", "BPF",
    "Cloud-Hypervisor Driver",
)  # fmt: skip

_handler: tuple[Callable[[Any, RawError], Any], Any] | None = None
_of_thread = threading.local()


class libvirtError(Exception):
    """A libvirt call failed. Made by hand it takes the fields of the thread's last error, when there is one."""

    def __init__(
        self, defmsg: str, conn: Any = None, dom: Any = None, net: Any = None, pool: Any = None, vol: Any = None
    ) -> None:
        self.err: RawError | None = virGetLastError()
        super().__init__(defmsg if self.err is None else self.err[2])

    def get_error_code(self) -> int | None:
        """The number, a VIR_ERR_ constant."""
        return None if self.err is None else self.err[0]

    def get_error_domain(self) -> int | None:
        """The part that found it, a VIR_FROM_ constant."""
        return None if self.err is None else self.err[1]

    def get_error_message(self) -> str | None:
        """The text for people."""
        return None if self.err is None else self.err[2]

    def get_error_level(self) -> int | None:
        """How grave it is; as a rule 2."""
        return None if self.err is None else self.err[3]

    def get_str1(self) -> str | None:
        """As a rule the message's template."""
        return None if self.err is None else self.err[4]

    def get_str2(self) -> str | None:
        """As a rule the detail that filled the template."""
        return None if self.err is None else self.err[5]

    def get_str3(self) -> str | None:
        """More text, as a rule None."""
        return None if self.err is None else self.err[6]

    def get_int1(self) -> int | None:
        """errno for VIR_ERR_SYSTEM_ERROR, else -1 or 0."""
        return None if self.err is None else self.err[7]

    def get_int2(self) -> int | None:
        """-1 or 0."""
        return None if self.err is None else self.err[8]


class Unobtainable:
    """A class whose objects only libvirt's own calls make, none of which this module offers."""

    def __init__(self, parent: Any = None, _obj: Any = None) -> None:
        raise not_made_here(_obj)


def not_made_here(handle: Any) -> Exception:
    """What libvirt-python's classes raise when they are made by hand."""
    return Exception(f"Expected a wrapped C Object but got {type(handle)}")


def virGetLastError() -> RawError | None:
    """The last error of this thread, or None when its last call succeeded."""
    return getattr(_of_thread, "error", None)


def virGetLastErrorCode() -> int:
    """Its number; 0 without one."""
    error = virGetLastError()
    return VIR_ERR_OK if error is None else error[0]


def virGetLastErrorDomain() -> int:
    """Its domain; 0 without one."""
    error = virGetLastError()
    return 0 if error is None else error[1]


def virGetLastErrorMessage() -> str:
    """Its message; "no error" without one."""
    error = virGetLastError()
    return "no error" if error is None else error[2]


def virResetLastError() -> None:
    """Forget this thread's last error."""
    _of_thread.error = None


def registerErrorHandler(f: Callable[[Any, RawError], Any] | None, ctx: Any) -> int:
    """Call `f(ctx, fields)` for each error instead of printing it; None: print again. Returns 1, as libvirt-python."""
    global _handler
    _handler = None if f is None else (f, ctx)
    return 1


def raw_of(error: VirError, reworded: Rewording = ()) -> RawError:
    """The nine fields of what the client raised. `reworded`: what the server says, and what libvirt would."""
    texts = [error.message, error.str1, error.str2, error.str3]
    for said, meant in reworded:
        texts = [_reworded(text, said, meant) for text in texts]
    message, str1, str2, str3 = texts
    return (
        int(error.number), int(error.domain), message or "", int(error.level), str1, str2, str3,
        error.record.int1, error.record.int2,
    )  # fmt: skip


def _reworded(text: str | None, said: str, meant: str) -> str | None:
    """What is meant in place of what is said, unless it is said already."""
    if text is None or (meant.startswith(said) and meant in text):
        return text
    return text.replace(said, meant)


def tell(error: RawError) -> libvirtError:
    """Record an error and tell the handler; returns what to raise."""
    _of_thread.error = error
    if _handler is not None:
        function, context = _handler
        try:
            function(context, error)
        except Exception:
            sys.excepthook(*sys.exc_info())
    else:
        _print(error)
    return libvirtError(error[2])


def plain_error(
    number: int, domain: int, template: str, detail: str | None = None, level: int = VIR_ERR_ERROR
) -> libvirtError:
    """An error whose message is a template filled with a detail, as libvirt makes most of its own."""
    message = template if detail is None else template.replace("%s", detail)
    return tell((number, domain, message, level, template, detail, None, -1, -1))


def argument_error(function: str, argument: str, text: str, domain: int = VIR_FROM_DOMAIN) -> libvirtError:
    """What libvirt's public functions say of an argument before any driver sees it."""
    return tell((VIR_ERR_INVALID_ARG, domain, text, VIR_ERR_ERROR, function, argument, None, 0, 0))


def null_argument(function: str, argument: str, domain: int = VIR_FROM_DOMAIN) -> libvirtError:
    """NULL where there must be a value."""
    return argument_error(function, argument, f"{argument} in {function} must not be NULL", domain)


def not_supported(function: str, domain: int = VIR_FROM_DOMAIN) -> libvirtError:
    """The call is not offered."""
    template = "this function is not supported by the connection driver: %s"
    return plain_error(VIR_ERR_NO_SUPPORT, domain, template, function)


def read_only_refused(function: str, domain: int = VIR_FROM_DOMAIN) -> libvirtError:
    """The connection was opened for reading."""
    detail = f"read only access prevents {function}"
    return plain_error(VIR_ERR_OPERATION_DENIED, domain, "operation forbidden: %s", detail)


def invalid_connection(function: str, domain: int = VIR_FROM_DOMAIN) -> libvirtError:
    """The connection was closed."""
    return plain_error(VIR_ERR_INVALID_CONN, domain, "invalid connection pointer in %s", function)


def internal_error(detail: str, domain: int = 0) -> libvirtError:
    """libvirt's "internal error"."""
    return plain_error(VIR_ERR_INTERNAL_ERROR, domain, "internal error: %s", detail)


def _print(error: RawError) -> None:
    """To the standard error stream, in the form of libvirt's default handler."""
    number, domain, message, level = error[:4]
    name = _DOMAIN_NAMES[domain] if 0 <= domain < len(_DOMAIN_NAMES) else "Unknown"
    kind = {VIR_ERR_WARNING: "warning", VIR_ERR_ERROR: "error"}.get(level, "")
    if number != VIR_ERR_OK and sys.stderr is not None:
        print(f"libvirt: {name} {kind} : {message}", file=sys.stderr)
    return
