# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: flags over environment over file over defaults,
checked as a whole before anything is done.

Owns: every option's name, type, default and the reason for it. An option has one name: `--state-dir`,
`VIRTBLOCK_STATE_DIR` and `state_dir = …` are the same. Invariants: a `Config` that `load` returns can be served, as
far as that can be known without doing it; an unknown key in the file is refused by name, because a misspelt
restriction would be no restriction.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from virtblock.server.addresses import AddressInvalid, TcpAddress, parse_address
from virtblock.server.logs import LOG_FORMATS

ENVIRONMENT_PREFIX = "VIRTBLOCK_"
EMBEDDED_URI = "embedded:///"
# The hypervisors that a connection's URI may name; the transport behind "+" is libvirt's matter.
HYPERVISORS = frozenset({"embedded", "qemu", "test"})
_SYSTEM_RUNTIME_DIR = Path("/run")
_SYSTEM_STATE_DIR = Path("/var/lib/virtblock")
_SOCKET_NAME = "virtblock-sock"
_TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
_FALSE_WORDS = frozenset({"0", "false", "no", "off"})


class ConfigInvalid(ValueError):
    """A configuration that cannot be served; the text names the option and the reason."""


def default_listen() -> tuple[str, ...]:
    """One pair of sockets where programs of this user look for it. Without a place for it, none: `load` then asks for
    one.
    """
    if os.geteuid() == 0:
        return (f"unix:{_SYSTEM_RUNTIME_DIR / 'virtblock' / _SOCKET_NAME}",)
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    return (f"unix:{Path(runtime_dir) / 'virtblock' / _SOCKET_NAME}",) if runtime_dir else ()


def default_state_dir() -> Path:
    """/var/lib for the machine's daemon, the XDG state folder for a user's."""
    if os.geteuid() == 0:
        return _SYSTEM_STATE_DIR
    state_home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state_home) if state_home else Path.home() / ".local" / "state") / "virtblock"


@dataclass(frozen=True)
class Config:
    """What a daemon is to serve. Every field is an option of the same name."""

    # A daemon that nobody asked to be on a network is not on one.
    listen: tuple[str, ...] = field(default_factory=default_listen)
    state_dir: Path = field(default_factory=default_state_dir)
    # The first is the default one. The embedded hypervisor needs nothing on the machine.
    connection: tuple[str, ...] = (EMBEDDED_URI,)
    # None: any path, as on libvirt's read-write socket, whose users are trusted as root is. Required for TCP.
    allow_path: tuple[Path, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    # With it every TLS client must show a certificate of this authority.
    tls_client_ca: Path | None = None
    # Plain TCP, on loopback only: any local user could call, so it is asked for by name.
    insecure: bool = False
    # libvirt refuses block jobs on shut-off disks; to offer them is what this server is for.
    strict_libvirt: bool = False
    log_format: str = "text"
    # Calls that run get this long to end at a stop. Jobs are not waited for: they are parked. Below the time after
    # which service managers kill (systemd: 90 s) and above what a pivot takes.
    stop_grace_s: float = 5.0

    @property
    def has_tls(self) -> bool:
        """Whether TCP listeners speak TLS."""
        return self.tls_cert is not None


def load(flags: Mapping[str, object], config_file: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration from all its sources. Raises ConfigInvalid.

    `flags` has only options that were given, already of their types; `environ` is usually `os.environ`.
    """
    values: dict[str, Any] = {}
    if config_file is not None:
        values |= _from_file(config_file)
    values |= _from_environment(environ)
    values |= flags
    config = Config(**values)
    check(config)
    return config


# Where the clients find the server; no misspelt option.
CLIENT_VARIABLE = "VIRTBLOCK_SERVER"


def unknown_environment(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that are no option: probably misspelt, so they are told, not refused."""
    known = {ENVIRONMENT_PREFIX + name.upper() for name in _PARSERS} | {f"{ENVIRONMENT_PREFIX}CONFIG", CLIENT_VARIABLE}
    return sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known)


def as_toml(config: Config) -> str:
    """The configuration as a file that `load` reads back to an equal one; options that are not set are left out."""
    lines = []
    for option in fields(config):
        value = getattr(config, option.name)
        if value is not None:
            lines.append(f"{option.name} = {_toml_value(value)}\n")
    return "".join(lines)


def hypervisor_of(uri: str) -> str:
    """What a connection's URI names before "+" and ":", e.g. "qemu" for `qemu+unix:///system`."""
    return uri.partition(":")[0].partition("+")[0]


def check(config: Config, hypervisors: Set[str] = HYPERVISORS) -> None:
    """Raise ConfigInvalid for what must not be served, or cannot be; `hypervisors` are those that have a driver."""
    if not config.listen:
        raise ConfigInvalid("no address to listen on: give --listen unix:PATH, or set XDG_RUNTIME_DIR")
    try:
        addresses = [parse_address(text) for text in config.listen]
    except AddressInvalid as error:
        raise ConfigInvalid(str(error)) from error
    if len(set(addresses)) != len(addresses):
        raise ConfigInvalid("the same --listen address is given twice")
    _check_tls(config)
    for address in addresses:
        if isinstance(address, TcpAddress):
            _check_tcp(config, address)
    _check_connections(config, hypervisors)
    _check_folders(config)
    if config.log_format not in LOG_FORMATS:
        raise ConfigInvalid(f"log_format is '{config.log_format}', and must be one of: {', '.join(LOG_FORMATS)}")
    if not 0 <= config.stop_grace_s < math.inf:
        raise ConfigInvalid(f"stop_grace_s is {config.stop_grace_s}, and must not be below 0 or without end")


def _check_tls(config: Config) -> None:
    if (config.tls_cert is None) != (config.tls_key is None):
        raise ConfigInvalid("--tls-cert and --tls-key must be given together")
    if config.tls_client_ca is not None and not config.has_tls:
        raise ConfigInvalid("--tls-client-ca needs --tls-cert and --tls-key")
    if config.insecure and config.has_tls:
        raise ConfigInvalid("--insecure contradicts --tls-cert: choose one")


def _check_tcp(config: Config, address: TcpAddress) -> None:
    if not config.has_tls and not config.insecure:
        raise ConfigInvalid(f"{address} without TLS is refused: give --tls-cert and --tls-key")
    if not config.has_tls and not address.is_loopback:
        raise ConfigInvalid(f"{address} is not loopback, where alone --insecure counts: give --tls-cert and --tls-key")
    if config.tls_client_ca is None and any(hypervisor_of(uri) != "embedded" for uri in config.connection):
        # Whoever may define a libvirt domain has the host's disks: libvirt itself asks for certificates there.
        raise ConfigInvalid(f"{address} with a libvirt connection needs --tls-client-ca")
    if not config.allow_path:
        raise ConfigInvalid(f"{address} without --allow-path is refused: say in which folders callers may open images")


def _check_connections(config: Config, hypervisors: Set[str]) -> None:
    if not config.connection:
        raise ConfigInvalid("no connection to serve")
    if len(set(config.connection)) != len(config.connection):
        raise ConfigInvalid("the same --connection is given twice")
    for uri in config.connection:
        hypervisor = hypervisor_of(uri)
        if hypervisor not in hypervisors or (hypervisor == "embedded" and uri != EMBEDDED_URI):
            offered = ", ".join(
                [EMBEDDED_URI, *(f"{name}[+transport]://…" for name in sorted(hypervisors - {"embedded"}))]
            )
            raise ConfigInvalid(f"connection '{uri}' is refused: this server offers {offered}")


def _check_folders(config: Config) -> None:
    state_dir = config.state_dir.resolve()
    for folder in config.allow_path:
        if not folder.is_dir():
            raise ConfigInvalid(f"--allow-path '{folder}' is not a folder that exists")
        if state_dir.is_relative_to(folder.resolve()):
            raise ConfigInvalid(
                f"--state-dir '{config.state_dir}' lies in --allow-path '{folder}': callers could write over it"
            )


def _from_file(path: Path) -> dict[str, object]:
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(f"configuration '{path}' cannot be read: {error}") from error
    unknown = sorted(table.keys() - _PARSERS.keys())
    if unknown:
        raise ConfigInvalid(f"configuration '{path}' has unknown keys: {', '.join(unknown)}")
    return {name: _parse(name, value, f"'{name}' in '{path}'") for name, value in table.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in _PARSERS:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environ:
            values[name] = _parse(name, environ[variable], variable)
    return values


def _parse(name: str, value: object, place: str) -> object:
    try:
        return _PARSERS[name](value)
    except (TypeError, ValueError) as error:
        raise ConfigInvalid(f"{place} is {value!r}: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def _path(value: object) -> Path:
    return Path(_text(value))


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in _TRUE_WORDS | _FALSE_WORDS:
        raise ValueError("must be true or false")
    return word in _TRUE_WORDS


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("must be a number of seconds")
    return float(value)


def _texts(value: object) -> tuple[str, ...]:
    # The environment has no lists: there a comma parts the entries.
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise ValueError("must be a list of texts")
    return tuple(_text(entry) for entry in entries)


def _paths(value: object) -> tuple[Path, ...]:
    return tuple(Path(entry) for entry in _texts(value))


_PARSERS: dict[str, Callable[[object], object]] = {
    "listen": _texts,
    "state_dir": _path,
    "connection": _texts,
    "allow_path": _paths,
    "tls_cert": _path,
    "tls_key": _path,
    "tls_client_ca": _path,
    "insecure": _switch,
    "strict_libvirt": _switch,
    "log_format": _text,
    "stop_grace_s": _seconds,
}


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(entry) for entry in value) + "]"
    return _toml_string(str(value))


def _toml_string(text: str) -> str:
    escaped = "".join(
        f"\\u{ord(char):04x}" if ord(char) < 0x20 or ord(char) == 0x7F else "\\" + char if char in '"\\' else char
        for char in text
    )
    return f'"{escaped}"'
