# SPDX-License-Identifier: Apache-2.0
"""The only file that imports libvirt: the connection to a hypervisor, kept alive and opened anew when it is lost.

Owns: the event loop that libvirt's callbacks come from (one thread for the process), the connection, keep-alive, the
thread that reconnects with back-off, and the translation of libvirt's errors into ours, field for field. Invariants:
no libvirt object leaves this file but as an opaque handle that its own methods take; a call on a lost connection fails
at once with the error that libvirt gave when the connection was lost or could not be opened again; `on_open` runs
after every opening and before `is_open` is true, so what it finds is found before anybody is answered; what libvirt
tells late of a connection that was given up touches neither the new one nor anybody who listens to it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import libvirt
import libvirt_qemu

from virtblock.server.core.errors import ConnectionLost, ErrorDomain, ErrorNumber, VirError
from virtblock.server.drivers.libvirt.lines import Lines

T = TypeVar("T")

KEEP_ALIVE_INTERVAL_S = 5
KEEP_ALIVE_COUNT = 3
RECONNECT_FIRST_S = 0.2
RECONNECT_MAX_S = 10.0
STOP_WAIT_S = 5.0
HANDLE_COUNT_MAX = 4096

# What libvirt says of a connection that is gone: the RPC layer's internal error, and a socket that cannot be reached.
_LOST_NUMBERS = frozenset({libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_RPC})

_CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "an I/O error",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "end of file from the server",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "no answer to keep-alive",
}

logger = logging.getLogger(__name__)


def vir_error(error: libvirt.libvirtError) -> VirError:
    """libvirt's error, every field kept."""
    if error.err is None:
        return VirError(ErrorNumber.INTERNAL_ERROR, str(error), domain=ErrorDomain.NONE)
    number, domain, message, level, str1, str2, str3, int1, int2 = error.err
    return VirError(
        number,
        message or "",
        domain=domain,
        level=level,
        str1=str1 or "",
        str2=str2 or "",
        str3=str3 or "",
        int1=int1,
        int2=int2,
    )


class _EventLoop:
    """libvirt's default event loop. It must be there before the first connection, and runs until the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_running = False

    def ensure(self) -> None:
        with self._lock:
            if self._is_running:
                return
            # libvirt prints errors to stderr unless somebody takes them; the exceptions have them all.
            libvirt.registerErrorHandler(lambda _context, _error: None, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=self._run, name="libvirt-events", daemon=True).start()
            self._is_running = True

    @staticmethod
    def _run() -> None:
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError:
                logger.exception("libvirt's event loop failed")


_event_loop = _EventLoop()


def ensure_event_loop() -> None:
    """Runs libvirt's event loop in a thread of this process, once. Before the first connection is opened."""
    _event_loop.ensure()


class Binding:
    """One connection. Thread-safe: libvirt's objects are, and calls run outside every lock of this class."""

    def __init__(self, uri: str, on_open: Callable[[], None]) -> None:
        """`on_open` is called in the thread that opened the connection; it may use the binding, see `opening`."""
        self._uri = uri
        self._on_open = on_open
        self._lock = threading.Condition()
        self._connection: libvirt.virConnect | None = None
        self._is_open = False
        self._is_lost = False  # the connection, also one that is not open to calls yet
        self._openers: set[threading.Thread] = set()  # the threads in `on_open`
        self._watcher: Callable[[bool], None] = lambda _: None
        self._lines = Lines(self._open_line, _close)
        self._error: VirError | None = None
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._handles: OrderedDict[str, libvirt.virDomain] = OrderedDict()
        self._subscriptions: list[tuple[int, Callable[..., None]]] = []
        self._registrations: list[int] = []  # of the connection, for events

    @property
    def is_open(self) -> bool:
        """Whether calls reach the hypervisor now, as far as is known."""
        with self._lock:
            return self._is_open

    def wait_open(self, timeout_s: float) -> bool:
        """Waits until calls reach the hypervisor; whether they do."""
        with self._lock:
            return self._lock.wait_for(lambda: self._is_open, timeout_s)

    def subscribe(self, event_id: int, callback: Callable[..., None]) -> None:
        """Before `start`: `callback(uuid, name, id, *arguments)` for any domain's event, in libvirt's own thread."""
        self._subscriptions.append((event_id, callback))

    def watch(self, told: Callable[[bool], None]) -> None:
        """Before `start`: `told(is_open)` whenever it changes, in any thread; it must not call back."""
        self._watcher = told

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Lets another thread of `on_open`'s use the connection as that does."""
        with self._lock:
            self._openers.add(threading.current_thread())
        try:
            yield
        finally:
            with self._lock:
                self._openers.discard(threading.current_thread())

    def start(self) -> None:
        """Opens the connection, or goes on trying in the background when that fails."""
        ensure_event_loop()
        try:
            self._open()
        except VirError as error:
            logger.warning("%s cannot be reached: %s", self._uri, error.message)
        self._thread = threading.Thread(target=self._keep_open, name=f"libvirt-{self._uri}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes the connection for good. An opening that takes long is left behind, and undoes itself at its end."""
        with self._lock:
            self._is_closing = True
            self._set_open(False)
        if self._thread is not None:
            self._thread.join(STOP_WAIT_S)
        self._drop(None)

    def call(self, function: Callable[[Any], T]) -> T:
        """`function(connection)`; libvirt's error as VirError."""
        connection = self._require()
        try:
            return function(connection)
        except libvirt.libvirtError as error:
            raise self._judge(connection, error) from None

    def on_domain(self, uuid: str, function: Callable[[Any], T], *, may_wait: bool = False) -> T:
        """`function(domain)` for a domain that a look-up returned before; libvirt's error as VirError.

        `may_wait`: for the domain's hypervisor; see `lines`. A domain is its UUID to libvirt's daemon, so a handle
        that is kept needs no look-up of its own.
        """
        connection = self._require()
        if may_wait:
            return self._on_line(uuid, function)
        try:
            return function(self._handle(connection, uuid))
        except libvirt.libvirtError as error:
            raise self._judge(connection, error) from None

    def ask_qemu(self, uuid: str, command: str) -> Any:
        """What the domain's own QEMU answers to a command of its monitor (`return`). VirError when it cannot be asked.

        libvirt marks such a domain as tainted ("custom-monitor"), so this is for what libvirt itself no longer knows.
        """
        request = json.dumps({"execute": command})
        said = self.on_domain(uuid, lambda found: libvirt_qemu.qemuMonitorCommand(found, request, 0), may_wait=True)
        return json.loads(said).get("return")

    def _on_line(self, uuid: str, function: Callable[[Any], T]) -> T:
        with self._lines.taken() as line:
            try:
                return function(line.domain(uuid))
            except libvirt.libvirtError as error:
                failure = vir_error(error)
                if failure.number not in _LOST_NUMBERS or (line.connection is not None and _is_alive(line.connection)):
                    raise failure from None
                self._lines.drop(line)
                raise ConnectionLost.of(failure) from None

    def remember(self, domain: Any) -> str:
        """Keeps the handle of a domain that was looked up; returns its UUID."""
        uuid: str = domain.UUIDString()
        with self._lock:
            self._handles[uuid] = domain
            self._handles.move_to_end(uuid)
            while len(self._handles) > HANDLE_COUNT_MAX:
                self._handles.popitem(last=False)
        return uuid

    def _require(self) -> Any:
        with self._lock:
            # While `on_open` looks around the connection is there for it alone.
            if self._connection is not None and (self._is_open or threading.current_thread() in self._openers):
                return self._connection
            error = self._error
        raise ConnectionLost.of(error or _closed())

    def _handle(self, connection: Any, uuid: str) -> Any:
        with self._lock:
            handle = self._handles.get(uuid)
        if handle is None:
            handle = connection.lookupByUUIDString(uuid)
            self.remember(handle)
        return handle

    def _judge(self, connection: Any, error: libvirt.libvirtError) -> VirError:
        """The error as ours; one that only a dead connection gives also sets the reconnecting off."""
        failure = vir_error(error)
        if failure.number in _LOST_NUMBERS and not _is_alive(connection):
            self._lose(connection, failure)
            return ConnectionLost.of(failure)
        return failure

    def _lose(self, connection: Any, error: VirError) -> None:
        with self._lock:
            if self._connection is not connection or self._is_lost:
                return
            logger.warning("%s was lost: %s", self._uri, error.message)
            self._set_open(False)
            self._is_lost = True
            self._error = error

    def _keep_open(self) -> None:
        """The thread that opens the connection again whenever it is lost."""
        delay_s = RECONNECT_FIRST_S
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._is_closing or not self._is_open)
                if self._is_closing:
                    return
            try:
                self._open()
                delay_s = RECONNECT_FIRST_S
            except VirError:
                with self._lock:
                    if self._lock.wait_for(lambda: self._is_closing, delay_s):
                        return
                delay_s = min(delay_s * 2, RECONNECT_MAX_S)

    def _open(self) -> None:
        self._drop(None)
        try:
            connection = libvirt.open(self._uri)
            with self._lock:
                self._connection = connection
                self._is_lost = False
            self._prepare(connection)
            with self.opening():
                self._on_open()
            with self._lock:
                if self._is_lost or self._is_closing:
                    raise self._error or _closed()
                self._error = None
                self._set_open(True)
        except (VirError, libvirt.libvirtError) as error:
            failure = vir_error(error) if isinstance(error, libvirt.libvirtError) else error
            self._drop(failure)
            raise failure from None
        logger.info("%s is open", self._uri)

    def _set_open(self, is_open: bool) -> None:
        """Under the lock."""
        if self._is_open is not is_open:
            self._is_open = is_open
            self._watcher(is_open)
        self._lock.notify_all()

    def _open_line(self) -> Any:
        connection = libvirt.open(self._uri)
        _keep_alive(connection)
        return connection

    def _prepare(self, connection: Any) -> None:
        _keep_alive(connection)
        _where_supported(lambda: connection.registerCloseCallback(self._on_close, None))
        for event_id, callback in self._subscriptions:
            self._registrations.append(connection.domainEventRegisterAny(None, event_id, _forward, callback))

    def _on_close(self, connection: Any, reason: int, _opaque: object) -> None:
        """In libvirt's event thread, maybe long after the connection was given up."""
        self._lose(connection, _closed(_CLOSE_REASONS.get(reason, "closed")))

    def _drop(self, error: VirError | None) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            registrations, self._registrations = self._registrations, []
            self._error = error or self._error
            self._handles.clear()
            self._set_open(False)
        self._lines.drop_all()
        if connection is None:
            return
        # What is registered keeps the connection alive behind `close`, and its events would come twice.
        ends: list[Callable[[], object]] = [partial(connection.domainEventDeregisterAny, one) for one in registrations]
        for end in (*ends, connection.unregisterCloseCallback):
            try:
                end()
            except libvirt.libvirtError as failure:
                logger.debug("closing %s: %s", self._uri, failure)
        _close(connection)


def _close(connection: Any) -> None:
    try:
        connection.close()
    except libvirt.libvirtError as failure:
        logger.debug("closing a connection: %s", failure)


def _keep_alive(connection: Any) -> None:
    _where_supported(lambda: connection.setKeepAlive(KEEP_ALIVE_INTERVAL_S, KEEP_ALIVE_COUNT))


def _where_supported(call: Callable[[], object]) -> None:
    """Drivers inside this process have nothing to keep alive (3) and nothing that closes."""
    try:
        call()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise


def _closed(why: str = "closed") -> VirError:
    return VirError(
        ErrorNumber.INTERNAL_ERROR, f"internal error: client socket is closed ({why})", domain=ErrorDomain.RPC
    )


def _is_alive(connection: Any) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def _forward(_connection: Any, domain: Any, *arguments: Any) -> None:
    """An event as plain values; `arguments` ends with the callback that was given as libvirt's opaque."""
    *values, callback = arguments
    callback(domain.UUIDString(), domain.name(), domain.ID(), *values)
