# SPDX-License-Identifier: Apache-2.0
"""`virtblockd`: the daemon's command line.

Owns: options, signals and exit codes. Exit codes: 0 after a stop that was asked for; 1 when something that the daemon
needs is not to be had (a lock, an address, the state); 2 when what was asked for makes no sense. SIGTERM and SIGINT
stop; SIGHUP takes renewed certificates into use.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from virtblock.engine.streams import replace_closed_streams
from virtblock.server import logs, service_manager
from virtblock.server.app import Daemon
from virtblock.server.config import ENVIRONMENT_PREFIX, Config, ConfigInvalid, as_toml, load, unknown_environment
from virtblock.server.listeners import StartRefused

EXIT_STOPPED = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2

# Options that are not part of the configuration.
_COMMAND_OPTIONS = frozenset({"config", "print_config", "ready_fd"})

# Long enough for an orderly end of the interpreter, short beside what service managers allow.
_LEAVE_S = 2.0

logger = logging.getLogger("virtblock.cli")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon until it is stopped; the exit code."""
    replace_closed_streams()
    options = _parser().parse_args(arguments)
    try:
        _require_open(options.ready_fd)
        config = _load(options)
    except ConfigInvalid as error:
        return _refuse(error, EXIT_USAGE)
    if options.print_config:
        sys.stdout.write(as_toml(config))
        return EXIT_STOPPED
    logs.configure(config.log_format)
    # The engine and grpc are native code: a crash is to say where.
    faulthandler.enable()
    for variable in unknown_environment(os.environ):
        logger.warning("variable is no option of the daemon", extra={"fields": {"variable": variable}})
    daemon = Daemon(config)
    try:
        asyncio.run(_serve(daemon, options.ready_fd))
    except ConfigInvalid as error:
        return _refuse(error, EXIT_USAGE)
    except StartRefused as error:
        return _refuse(error, EXIT_REFUSED)
    return EXIT_STOPPED


async def _serve(daemon: Daemon, ready_fd: int | None) -> None:
    """Start, say so, wait for a signal, stop."""
    loop = asyncio.get_running_loop()
    stop_asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_asked.set)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload_certificates)
    async with daemon:
        _tell(f"virtblockd ready on {' '.join(daemon.addresses)}")
        service_manager.notify(service_manager.READY)
        if ready_fd is not None:
            service_manager.signal_ready(ready_fd)
        await stop_asked.wait()
        service_manager.notify(service_manager.STOPPING)
    # Before the loop ends, because ending it waits for worker threads too.
    _leave_in_time(EXIT_STOPPED)


def _require_open(ready_fd: int | None) -> None:
    """Refuse a number that nobody passed: it would be that of a file of our own by the time it is written to."""
    if ready_fd is None:
        return
    try:
        os.fstat(ready_fd)
    except OSError as error:
        raise ConfigInvalid(f"ready_fd: descriptor {ready_fd} is not open: {error.strerror}") from None


def _load(options: argparse.Namespace) -> Config:
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name not in _COMMAND_OPTIONS and value is not None
    }
    config_file = options.config or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None
    return load(given, Path(config_file) if config_file else None, os.environ)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="virtblockd",
        description="Offers libvirt's block-job calls over gRPC. A flag wins over its variable VIRTBLOCK_…, that over "
        "the configuration file, and that over the default, which --print-config shows.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--listen", action="append", metavar="unix:PATH|HOST:PORT", help="where to listen; unix:PATH also makes "
           "PATH-ro, on which nothing can be changed (repeatable)")  # fmt: skip
    option(
        "--state-dir", type=_path, metavar="DIR", help="where domains, jobs and events are kept; private, one daemon"
    )
    option("--connection", action="append", metavar="URI", help="a hypervisor to offer, the first is the default one "
           "(repeatable)")  # fmt: skip
    option("--allow-path", action="append", type=_path, metavar="DIR", help="open images below this folder only "
           "(repeatable; required for HOST:PORT)")  # fmt: skip
    option("--config", metavar="FILE", help='a TOML file with the same names, as in state_dir = "…"')
    option("--tls-cert", type=_path, metavar="FILE", help="certificate chain for HOST:PORT, PEM")
    option("--tls-key", type=_path, metavar="FILE", help="its private key, PEM, not encrypted")
    option("--tls-client-ca", type=_path, metavar="FILE", help="ask every client for a certificate of this authority")
    option("--insecure", action="store_const", const=True, help="allow HOST:PORT without TLS, on loopback only")
    option(
        "--strict-libvirt", action="store_const", const=True, help="refuse disks of shut-off domains as libvirt does"
    )
    option("--log-format", choices=logs.LOG_FORMATS, help="one line per call on stderr")
    option("--print-config", action="store_true", help="print the configuration that would be served, and exit")
    option("--ready-fd", type=int, metavar="N", help="write a line to this descriptor when ready, and close it")
    option("--version", action="version", version=f"virtblockd {metadata.version('virtblock')}")
    return parser


def _path(text: str) -> Path:
    # The current folder, as pathlib has it, is never what a variable that is not set was to mean.
    if not text:
        raise argparse.ArgumentTypeError("must be a path that is not empty")
    return Path(text)


def _refuse(error: Exception, exit_code: int) -> int:
    _tell(f"virtblockd: {error}")
    return exit_code


def _tell(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # a log that is full or that nobody reads stops no daemon


def _leave_in_time(exit_code: int) -> None:
    """See that the process ends though a hypervisor or a disk holds a worker thread, which Python would wait for.

    All that must last is on disk by now, and the locks are let go of.
    """
    watchdog = threading.Timer(_LEAVE_S, os._exit, (exit_code,))
    watchdog.daemon = True
    watchdog.start()


if __name__ == "__main__":
    sys.exit(main())
