# SPDX-License-Identifier: Apache-2.0
"""The block-job calls of virDomain*: what libvirt's public layer does before a driver sees the call.

Owns: the order of those checks (look-up, read-only, NULL, what the call itself demands, whether the driver has it),
and request ids: a starting call that comes again with the same id and arguments gets the job of the first, whatever
became of job and domain since. Invariants: of two equal requests at the same time one starts the job and the other
waits for it. Methods block; they are called from worker threads.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass

from virtblock.server.core.connections import Connections, require
from virtblock.server.core.driver import Driver
from virtblock.server.core.errors import ErrorDomain, ErrorNumber, argument_check, report
from virtblock.server.core.flags import BlockRebaseFlags
from virtblock.server.core.jobs import JobRegistry, Origin
from virtblock.server.core.lookup import DomainLookup, check_unsigned, given, refuse_read_only
from virtblock.server.core.model import (
    BlockJob,
    BlockJobInfo,
    Caller,
    Domain,
    DomainSelector,
    TypedParameter,
)

REQUEST_ID_BYTES_MAX = 128


@dataclass
class _Turn:
    lock: threading.Lock
    waiter_count: int = 0


class _RequestTurns:
    """Lets one thread at a time work on a request id of a caller."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str], _Turn] = {}

    @contextmanager
    def taken(self, principal: str, request_id: str) -> Iterator[None]:
        """Waits for its turn. Requests without an id never wait."""
        if not request_id:
            yield
            return
        key = (principal, request_id)
        with self._lock:
            turn = self._turns.setdefault(key, _Turn(threading.Lock()))
            turn.waiter_count += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.waiter_count -= 1
                if turn.waiter_count == 0:
                    del self._turns[key]


class BlockApi:
    """The seven block-job calls of DomainService."""

    def __init__(self, connections: Connections, jobs: JobRegistry) -> None:
        self._lookup = DomainLookup(connections)
        self._jobs = jobs
        self._turns = _RequestTurns()

    def block_rebase(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str | None,
        base: str | None,
        bandwidth: int,
        flags: int,
        request_id: str = "",
    ) -> BlockJob:
        """virDomainBlockRebase; `bandwidth` in MiB/s, or bytes/s with BANDWIDTH_BYTES."""
        function = "virDomainBlockRebase"

        def start(origin: Origin) -> str:
            driver, domain, name = self._to_change(caller, selector, disk, function)
            _check_rebase(base, flags, function)
            _check_numbers(flags, bandwidth)
            require(driver, "domain_block_rebase", function)
            return driver.domain_block_rebase(domain, name, base, bandwidth, flags, origin)

        return self._once(caller, request_id, (function, selector, disk, base, bandwidth, flags), start)

    def block_copy(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str | None,
        dest_xml: str | None,
        parameters: Sequence[TypedParameter],
        flags: int,
        request_id: str = "",
        *,
        pivot_persistent: bool = False,
    ) -> BlockJob:
        """virDomainBlockCopy. `pivot_persistent`: see `driver.domain_block_copy_and_pivot`."""
        function = "virDomainBlockCopy"

        def start(origin: Origin) -> str:
            driver, domain, name = self._to_change(caller, selector, disk, function)
            xml = given(dest_xml, "destxml", function)
            _check_numbers(flags)
            require(driver, "domain_block_copy", function)
            if pivot_persistent:
                require(driver, "domain_block_copy_and_pivot", f"{function} with pivot_persistent")
                return driver.domain_block_copy_and_pivot(domain, name, xml, parameters, flags, origin)
            return driver.domain_block_copy(domain, name, xml, parameters, flags, origin)

        values = [astuple(parameter) for parameter in parameters]
        arguments = (function, selector, disk, dest_xml, values, flags, pivot_persistent)
        return self._once(caller, request_id, arguments, start)

    def block_pull(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str | None,
        bandwidth: int,
        flags: int,
        request_id: str = "",
    ) -> BlockJob:
        """virDomainBlockPull; `bandwidth` as for `block_rebase`."""
        function = "virDomainBlockPull"

        def start(origin: Origin) -> str:
            driver, domain, name = self._to_change(caller, selector, disk, function)
            _check_numbers(flags, bandwidth)
            require(driver, "domain_block_pull", function)
            return driver.domain_block_pull(domain, name, bandwidth, flags, origin)

        return self._once(caller, request_id, (function, selector, disk, bandwidth, flags), start)

    def block_commit(
        self,
        caller: Caller,
        selector: DomainSelector,
        disk: str | None,
        base: str | None,
        top: str | None,
        bandwidth: int,
        flags: int,
        request_id: str = "",
    ) -> BlockJob:
        """virDomainBlockCommit; `bandwidth` as for `block_rebase`."""
        function = "virDomainBlockCommit"

        def start(origin: Origin) -> str:
            driver, domain, name = self._to_change(caller, selector, disk, function)
            _check_numbers(flags, bandwidth)
            require(driver, "domain_block_commit", function)
            return driver.domain_block_commit(domain, name, base, top, bandwidth, flags, origin)

        return self._once(caller, request_id, (function, selector, disk, base, top, bandwidth, flags), start)

    def block_job_abort(
        self, caller: Caller, selector: DomainSelector, disk: str | None, flags: int
    ) -> BlockJob | None:
        """virDomainBlockJobAbort; returns the job's record after the call, None when there is none."""
        function = "virDomainBlockJobAbort"
        driver, domain, name = self._to_change(caller, selector, disk, function)
        _check_numbers(flags)
        require(driver, "domain_block_job_abort", function)
        job = self._jobs.find_active(driver.uri, domain.uuid, name)
        driver.domain_block_job_abort(domain, name, flags)
        return None if job is None else self._jobs.get(job.job_id)

    def get_block_job_info(
        self, caller: Caller, selector: DomainSelector, disk: str | None, flags: int
    ) -> BlockJobInfo | None:
        """virDomainGetBlockJobInfo, also for read-only callers; None without a job."""
        function = "virDomainGetBlockJobInfo"
        driver, domain = self._lookup.select(selector, function)
        name = given(disk, "disk", function)
        _check_numbers(flags)
        require(driver, "domain_get_block_job_info", function)
        return driver.domain_get_block_job_info(domain, name, flags)

    def block_job_set_speed(
        self, caller: Caller, selector: DomainSelector, disk: str | None, bandwidth: int, flags: int
    ) -> None:
        """virDomainBlockJobSetSpeed; `bandwidth` in MiB/s, or bytes/s with BANDWIDTH_BYTES."""
        function = "virDomainBlockJobSetSpeed"
        driver, domain, name = self._to_change(caller, selector, disk, function)
        _check_numbers(flags, bandwidth)
        require(driver, "domain_block_job_set_speed", function)
        driver.domain_block_job_set_speed(domain, name, bandwidth, flags)

    def _to_change(
        self, caller: Caller, selector: DomainSelector, disk: str | None, function: str
    ) -> tuple[Driver, Domain, str]:
        """The checks that all changing calls begin with: look-up, read-only, the disk."""
        driver, domain = self._lookup.select(selector, function)
        refuse_read_only(caller, function)
        return driver, domain, given(disk, "disk", function)

    def _once(
        self, caller: Caller, request_id: str, arguments: tuple[object, ...], start: Callable[[Origin], str]
    ) -> BlockJob:
        """Starts the job, or finds the one that the same request started. A read-only caller started none."""
        if len(request_id.encode()) > REQUEST_ID_BYTES_MAX:
            detail = f"request_id is longer than {REQUEST_ID_BYTES_MAX} bytes"
            raise report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.DOMAIN)
        origin = Origin(caller.principal, request_id, _digest(arguments))
        with self._turns.taken(origin.principal, request_id):
            if not caller.read_only and (known := self._jobs.find_request(origin)):
                return known
            return self._jobs.get(start(origin))


def _digest(arguments: tuple[object, ...]) -> str:
    """Tells two calls apart by everything they ask for."""
    return hashlib.sha256(json.dumps(arguments, default=_plain).encode()).hexdigest()


def _plain(value: object) -> tuple[object, ...]:
    assert isinstance(value, DomainSelector)  # the only argument of a call that JSON does not know
    return astuple(value)


def _check_rebase(base: str | None, flags: int, function: str) -> None:
    """COPY needs a destination, and the flags of a copy need COPY; RELATIVE and BANDWIDTH_BYTES go without."""
    if flags & BlockRebaseFlags.COPY:
        given(base, "base", function)
    elif flags & BlockRebaseFlags.copy_only():
        raise argument_check(function, "flags", "use of flags requires a copy job")


def _check_numbers(flags: int, bandwidth: int = 0) -> None:
    """The wire cannot carry anything else; a program that embeds the server can."""
    check_unsigned(flags, "flags", bit_count=32)
    check_unsigned(bandwidth, "bandwidth", bit_count=64)
