# SPDX-License-Identifier: Apache-2.0
"""The configuration: which source wins, and what is refused before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtblock.server.addresses import AddressInvalid, TcpAddress, UnixAddress, parse_address
from virtblock.server.config import (
    Config,
    ConfigInvalid,
    as_toml,
    default_listen,
    default_state_dir,
    load,
    unknown_environment,
)

SOCKET = ("unix:/run/x/sock",)


def loaded(tmp_path: Path, *, file: str | None = None, environ: dict[str, str] | None = None, **flags: Any) -> Config:
    path = None
    if file is not None:
        path = tmp_path / "virtblockd.toml"
        path.write_text(file)
    return load({"state_dir": tmp_path / "state", "listen": SOCKET} | flags, path, environ or {})


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = 'log_format = "json"\nstop_grace_s = 7\nstrict_libvirt = true\n'
    environ = {"VIRTBLOCK_STOP_GRACE_S": "8.5", "VIRTBLOCK_STRICT_LIBVIRT": "no"}
    config = loaded(tmp_path, file=file, environ=environ, strict_libvirt=True)
    assert (config.log_format, config.stop_grace_s, config.strict_libvirt) == ("json", 8.5, True)
    assert config.connection == ("embedded:///",)


def test_lists_come_from_every_source(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    from_file = loaded(tmp_path, file=f'allow_path = ["{folders[0]}", "{folders[1]}"]')
    from_environment = loaded(tmp_path, environ={"VIRTBLOCK_ALLOW_PATH": f"{folders[0]},{folders[1]}"})
    assert from_file.allow_path == from_environment.allow_path == tuple(folders)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ('alow_path = ["/x"]\nlisten_at = "y"', "unknown keys: alow_path, listen_at"),
        ("[server]\nlisten = []", "unknown keys: server"),
        ('insecure = "maybe"', "'insecure' in "),
        ("allow_path = 3", "must be a list of texts"),
        ("listen = [1]", "must be a text"),
        ('stop_grace_s = "soon"', "'stop_grace_s' in "),
        ("stop_grace_s = true", "must be a number"),
        ("stop_grace_s = nan", "must not be below 0"),
        ("stop_grace_s = -1", "must not be below 0"),
        ('log_format = "xml"', "must be one of: text, json"),
        ("listen = [", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path: Path, file: str, told: str) -> None:
    with pytest.raises(ConfigInvalid, match=told):
        loaded(tmp_path, file=file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"none\.toml.*No such file"):
        load({}, tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"listen": ("127.0.0.1:1",)}, "127.0.0.1:1 without TLS is refused"),
        ({"listen": ("0.0.0.0:1",), "insecure": True}, "not loopback"),
        ({"listen": ("[::]:1",), "insecure": True}, "not loopback"),
        ({"listen": ("example.org:1",), "insecure": True}, "not loopback"),
        ({"listen": ("127.0.0.1:1",), "insecure": True}, "without --allow-path is refused"),
        ({"listen": ("h:1",), "tls_cert": Path("c"), "tls_key": Path("k")}, "without --allow-path is refused"),
        ({"tls_cert": Path("c")}, "given together"),
        ({"tls_client_ca": Path("c")}, "needs --tls-cert"),
        ({"tls_cert": Path("c"), "tls_key": Path("k"), "insecure": True}, "contradicts"),
        ({"listen": ()}, "no address"),
        ({"listen": SOCKET * 2}, "twice"),
        ({"listen": ("unix:relative",)}, "must be absolute"),
        ({"listen": ("nonsense",)}, "neither unix:PATH nor HOST:PORT"),
        ({"listen": ("unix:/" + "x" * 104,)}, "at most 107"),
        ({"connection": ()}, "no connection"),
        ({"connection": ("embedded:///",) * 2}, "twice"),
        ({"connection": ("xen:///system",)}, "'xen:///system' is refused: this server offers embedded:///, qemu"),
        ({"connection": ("embedded:///other",)}, "this server offers embedded:///"),
        (
            {"listen": ("h:1",), "tls_cert": Path("c"), "tls_key": Path("k"), "connection": ("qemu:///system",)},
            "with a libvirt connection needs --tls-client-ca",
        ),
        ({"allow_path": (Path("/does/not/exist"),)}, "not a folder that exists"),
    ],
)
def test_what_must_not_be_served_is_refused(tmp_path: Path, flags: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        loaded(tmp_path, **flags)
    assert told in str(refused.value)


def test_loopback_without_tls_is_served_when_asked_for(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]"):
        config = loaded(tmp_path, listen=(f"{host}:0",), insecure=True, allow_path=(Path("/usr"),))
        assert config.listen == (f"{host}:0",)


def test_the_state_is_never_among_the_images(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigInvalid, match="lies in --allow-path"):
        loaded(tmp_path, allow_path=(tmp_path / "link",))


def test_what_is_printed_loads_again(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted\\ \tfolder'
    odd.mkdir()
    config = loaded(tmp_path, allow_path=(odd,), strict_libvirt=True, stop_grace_s=2.5)
    (tmp_path / "again.toml").write_text(as_toml(config))
    assert load({}, tmp_path / "again.toml", {}) == config


def test_variables_that_are_no_option_are_named() -> None:
    environ = dict.fromkeys(["VIRTBLOCK_SERVER", "VIRTBLOCK_LISTEN", "VIRTBLOCK_CONFIG", "VIRTBLOCK_LISTN", "PATH"], "")
    assert unknown_environment(environ) == ["VIRTBLOCK_LISTN"]


def test_a_users_daemon_keeps_to_the_users_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_listen() == ("unix:/run/user/1000/virtblock/virtblock-sock",)
    assert default_state_dir() == tmp_path / "virtblock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_listen() == ()


def test_the_machines_daemon_is_where_clients_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_listen() == ("unix:/run/virtblock/virtblock-sock",)
    assert default_state_dir() == Path("/var/lib/virtblock")


def test_addresses() -> None:
    unix = parse_address("unix:///run/virtblock/virtblock-sock")
    assert unix == parse_address("unix:/run/virtblock/virtblock-sock")
    assert isinstance(unix, UnixAddress)
    assert unix.read_only_path == Path("/run/virtblock/virtblock-sock-ro")
    assert parse_address("[::1]:5") == TcpAddress("::1", 5)
    assert str(TcpAddress("::1", 5)) == "[::1]:5"


@given(text=st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressInvalid:
        return
    assert isinstance(address, (UnixAddress, TcpAddress))
