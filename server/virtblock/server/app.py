# SPDX-License-Identifier: Apache-2.0
"""The composition root: the only place that makes a store, drivers, the core's API and servers, and puts them together.

Owns: `Daemon`, the whole server as one object, and the order of its life. For a control plane that serves block jobs
from its own process:

    async with Daemon(Config(listen=("unix:/run/mine/sock",), state_dir=Path("/var/lib/mine"))) as daemon:
        print(daemon.addresses)
        await asyncio.Event().wait()

Order of a start: lock the state folder and the sockets, open the store, open the drivers (which take up parked jobs),
bind, answer calls, say SERVING. Whatever fails undoes what came before, in reverse. Order of a stop: say NOT_SERVING,
refuse new calls and end streams, close the drivers (which park their jobs) while calls that run end within the grace,
close the store, let go of the sockets and of the state folder. Invariant: the locks are taken before and let go after
everything they protect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from virtblock.engine import EngineError, PathPolicy
from virtblock.server.addresses import Address, TcpAddress, UnixAddress, parse_address
from virtblock.server.config import Config, ConfigInvalid, check, hypervisor_of
from virtblock.server.core.bitmap_api import BitmapApi
from virtblock.server.core.block_api import BlockApi
from virtblock.server.core.block_job_api import BlockJobApi
from virtblock.server.core.connect_api import ConnectApi
from virtblock.server.core.connections import Connections, offers
from virtblock.server.core.domain_api import DomainApi
from virtblock.server.core.driver import Driver
from virtblock.server.core.errors import VirError
from virtblock.server.core.events import DomainEvents, EventLog
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.store import Store
from virtblock.server.drivers.embedded import EmbeddedDriver
from virtblock.server.drivers.offline.journals import Journals
from virtblock.server.listeners import StartRefused, lock_socket, lock_state_dir, remove_socket
from virtblock.server.rpc.callers import CallerRule, Transport
from virtblock.server.rpc.server import BindFailed, ListenerServer, ListenerSpec, stop_all
from virtblock.server.rpc.servicing import Floor
from virtblock.server.rpc.tls import ServerTls, TlsFiles, TlsUnusable

DATABASE_NAME = "virtblock.db"
JOURNALS_NAME = "jobs"
# As libvirt's: the group that the daemon runs in may change things, everybody may look.
_READ_WRITE_MODE = 0o660
_READ_ONLY_MODE = 0o666

logger = logging.getLogger("virtblock.app")


@dataclass(frozen=True)
class DriverParts:
    """What a driver is made of: the connection's URI, the server's state, and which files may be opened."""

    uri: str
    store: Store
    jobs: JobRegistry
    events: EventLog
    policy: PathPolicy
    config: Config
    journals: Journals


DriverFactory = Callable[[DriverParts], object]


def make_embedded_driver(parts: DriverParts) -> object:
    """The driver behind `embedded:///`."""
    return EmbeddedDriver(
        parts.store,
        parts.jobs,
        DomainEvents(parts.events),
        parts.policy,
        strict_libvirt=parts.config.strict_libvirt,
        uri=parts.uri,
        journals=parts.journals,
    )


def make_libvirt_driver(parts: DriverParts) -> object:
    """The driver behind libvirt's own URIs. ConfigInvalid where libvirt's Python binding is not installed."""
    try:
        from virtblock.server.drivers.libvirt import LibvirtDriver  # noqa: PLC0415 - the default needs no libvirt
    except ImportError as error:
        detail = f"--connection '{parts.uri}' needs libvirt-python (pip install 'virtblock[libvirt]'): {error}"
        raise ConfigInvalid(detail) from error
    return LibvirtDriver(
        parts.uri,
        parts.store,
        parts.jobs,
        parts.events,
        parts.policy,
        strict_libvirt=parts.config.strict_libvirt,
        journals=parts.journals,
    )


# By the hypervisor that the connection's URI names.
DRIVER_FACTORIES: Mapping[str, DriverFactory] = {
    "embedded": make_embedded_driver,
    "qemu": make_libvirt_driver,
    "test": make_libvirt_driver,
}


class Daemon:
    """A server for one configuration, started at most once. Used on one event loop, from start to stop."""

    def __init__(self, config: Config, *, driver_factories: Mapping[str, DriverFactory] = DRIVER_FACTORIES) -> None:
        self.config = config
        self._driver_factories = driver_factories
        self._was_started = False
        self._resources = AsyncExitStack()
        self._servers: list[ListenerServer] = []
        self._drivers: list[Driver] = []
        self._opened: list[Driver] = []
        self._addresses: list[str] = []
        self._is_alive: dict[str, bool] = {}  # of each connection
        self._tellings: set[asyncio.Task[None]] = set()
        self._floor: Floor | None = None
        self._tls: ServerTls | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the daemon listens, in grpc's form, with the port that was given for port 0."""
        return tuple(self._addresses)

    @property
    def has_stuck_calls(self) -> bool:
        """Whether a call still holds a worker: after `stop` it will not come back in time."""
        return self._floor is not None and not self._floor.pools.is_idle

    async def start(self) -> None:
        """Serve. Raises StartRefused or ConfigInvalid, with everything undone; StartRefused for a second start."""
        if self._was_started:
            raise StartRefused("a daemon is started once: make another one")
        self._was_started = True
        try:
            await self._start()
        except (BindFailed, EngineError, VirError, OSError) as error:
            await self._resources.aclose()
            raise StartRefused(str(error)) from error
        except BaseException:
            await self._resources.aclose()
            raise

    async def stop(self) -> None:
        """Stop serving; see the order above. A second call does nothing."""
        await self._resources.aclose()

    def reload_certificates(self) -> None:
        """Take renewed TLS files into use for connections that come from now on."""
        if self._tls is not None:
            self._tls.reload()

    async def _start(self) -> None:
        check(self.config, self._driver_factories.keys())
        self._load_tls()
        state_lock = lock_state_dir(self.config.state_dir)
        self._resources.callback(state_lock.release)
        specs = self._lock_listeners()
        store = Store(self.config.state_dir / DATABASE_NAME)
        self._resources.callback(store.close)
        self._floor = self._compose(store)
        self._resources.callback(self._floor.pools.close)
        # From here on the stop goes by its own order, not by the reverse of the start.
        self._resources.push_async_callback(self._stop_serving, self._floor)
        await self._open_drivers()
        for spec in specs:
            server = ListenerServer(self._floor, spec, self._tls)
            self._servers.append(server)
            self._addresses.append(await server.bind())
        for server in self._servers:
            await server.start()
        for uri in self._is_alive:
            await self._tell_health(uri)
        logger.info("serving", extra={"fields": {"addresses": " ".join(self._addresses)}})

    def _load_tls(self) -> None:
        config = self.config
        if config.tls_cert is None or config.tls_key is None:
            return
        try:
            self._tls = ServerTls(TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca))
        except TlsUnusable as error:
            raise ConfigInvalid(str(error)) from error
        if config.tls_client_ca is None:
            logger.warning("TLS without --tls-client-ca: every client that can connect may change things")

    def _lock_listeners(self) -> list[ListenerSpec]:
        specs: list[ListenerSpec] = []
        for text in self.config.listen:
            for spec in _listener_specs(parse_address(text), has_tls=self.config.has_tls):
                if spec.rule.transport is Transport.UNIX:
                    self._lock_socket(Path(spec.address.removeprefix("unix:")))
                specs.append(spec)
        return specs

    def _lock_socket(self, path: Path) -> None:
        lock = lock_socket(path)
        self._resources.callback(lock.release)
        self._resources.callback(remove_socket, path)

    def _compose(self, store: Store) -> Floor:
        events = EventLog(store)
        jobs = JobRegistry(store, events)
        policy = PathPolicy([str(folder) for folder in self.config.allow_path])
        journals = Journals(self.config.state_dir / JOURNALS_NAME)
        journals.sweep({job.job_id for job in jobs.list_active()})
        for uri in self.config.connection:
            factory = self._driver_factories[hypervisor_of(uri)]
            parts = DriverParts(uri, store, jobs, events, policy, self.config, journals)
            driver = cast(Driver, factory(parts))
            self._drivers.append(driver)
            self._watch(driver)
        connections = Connections(self._drivers)
        return Floor(
            connect=ConnectApi(connections),
            domains=DomainApi(connections),
            blocks=BlockApi(connections, jobs),
            jobs=BlockJobApi(connections, jobs, events),
            bitmaps=BitmapApi(connections),
            server_version=metadata.version("virtblock"),
        )

    def _watch(self, driver: Driver) -> None:
        """Keep the health of the driver's connection. One that cannot be lost is well."""
        uri, loop = driver.uri, asyncio.get_running_loop()
        self._is_alive[uri] = not offers(driver, "watch_alive")

        def take(is_alive: bool) -> None:
            self._is_alive[uri] = is_alive
            telling = asyncio.ensure_future(self._tell_health(uri))
            self._tellings.add(telling)
            telling.add_done_callback(self._tellings.discard)

        def told(is_alive: bool) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                loop.call_soon_threadsafe(take, is_alive)

        if not self._is_alive[uri]:
            driver.watch_alive(told)

    async def _tell_health(self, uri: str) -> None:
        for server in self._servers:
            await server.set_connection_health(uri, is_alive=self._is_alive[uri])

    async def _open_drivers(self) -> None:
        for driver in self._drivers:
            await self._in_driver_thread(partial(self._open_driver, driver))

    def _open_driver(self, driver: Driver) -> None:
        driver.open()
        self._opened.append(driver)

    async def _stop_serving(self, floor: Floor) -> None:
        for server in self._servers:
            await server.announce_stop()
        stopping = asyncio.ensure_future(stop_all(self._servers, self.config.stop_grace_s))
        floor.stopping.set()
        for driver in reversed(self._opened):
            await self._close_driver(driver)
        await stopping
        logger.info("stopped", extra={"fields": {"stuck_calls": self.has_stuck_calls}})

    async def _close_driver(self, driver: Driver) -> None:
        """Let a driver park its jobs. One that fails is logged: the others are to be closed all the same."""
        try:
            await self._in_driver_thread(driver.close)
        except Exception:
            logger.exception("driver not closed in order", extra={"fields": {"uri": driver.uri}})

    async def _in_driver_thread(self, function: Callable[[], None]) -> None:
        """Run an opening or a closing in a thread of its own: the shared ones may all be held by calls that wait.

        Whoever is cancelled meanwhile still sees its end: what follows a cancellation takes away what the thread uses.
        """
        with_own_thread = ThreadPoolExecutor(1, thread_name_prefix="virtblock-driver")
        running = asyncio.get_running_loop().run_in_executor(with_own_thread, function)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running})
            raise
        finally:
            with_own_thread.shutdown(wait=False)


def _listener_specs(address: Address, *, has_tls: bool) -> list[ListenerSpec]:
    match address:
        case UnixAddress(path=path):
            return [
                ListenerSpec(f"unix:{path}", CallerRule(Transport.UNIX), _READ_WRITE_MODE),
                ListenerSpec(
                    f"unix:{address.read_only_path}", CallerRule(Transport.UNIX, read_only=True), _READ_ONLY_MODE
                ),
            ]
        case TcpAddress():
            rule = CallerRule(Transport.TLS if has_tls else Transport.TCP)
            # The contract is public; what a server on a network offers is not told to whoever can connect.
            return [ListenerSpec(str(address), rule, with_reflection=False)]
