# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the conformance cases: both routes, and the two disks on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance.guests import KIB, MIB, Guest
from conformance.routes import CoreRoute, GrpcRoute, Route


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcRoute]:
    """One daemon for all cases: starting one takes longer than most of them."""
    made = GrpcRoute(tmp_path_factory.mktemp("daemon"))
    yield made
    made.close()


@pytest.fixture(params=["core", "grpc"])
def route(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Route]:
    """Both ways in; no folder is excluded by policy."""
    if request.param == "grpc":
        shared: GrpcRoute = request.getfixturevalue("daemon")
        yield shared
        shared.clear()
        return
    made = CoreRoute(tmp_path / "server")
    yield made
    made.close()


@pytest.fixture(params=["core", "grpc"])
def fenced_route(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Route]:
    """Both ways in, with `tmp_path/allowed` as the one allowed folder."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    made = (CoreRoute if request.param == "core" else GrpcRoute)(tmp_path / "server", [allowed])
    yield made
    made.close()


@pytest.fixture(scope="session")
def domain_xml() -> Callable[..., str]:
    """Makes the XML of a domain with the given disks: (target, path, format) each, or one element as text."""

    def make(*disks: tuple[str, Path, str] | str, name: str = "guest") -> str:
        elements = [
            disk
            if isinstance(disk, str)
            else f"<disk type='file' device='disk'><driver name='qemu' type='{disk[2]}'/>"
            f"<source file='{disk[1]}'/><target dev='{disk[0]}' bus='virtio'/></disk>"
            for disk in disks
        ]
        return (
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
            f"<os><type arch='x86_64'>hvm</type></os><devices>{''.join(elements)}</devices></domain>"
        )

    return make


@pytest.fixture
def chain_guest(route: Route, qemu_img: Any, tmp_path: Path, make_chain: Any, domain_xml: Callable[..., str]) -> Guest:
    """base <- snap1 <- snap2, all qcow2."""
    chain = make_chain()
    route.define(domain_xml(("vda", chain.top, "qcow2")))
    return Guest(route, qemu_img, tmp_path, chain.files, "qcow2")


@pytest.fixture
def raw_guest(route: Route, qemu_img: Any, tmp_path: Path, make_image: Any, domain_xml: Callable[..., str]) -> Guest:
    """One raw image with data at its ends, in the middle, and holes."""
    size_bytes = 24 * MIB
    writes = [(0, MIB, 0x41), (9 * MIB + 512, 3 * MIB, 0x42), (size_bytes - 4 * KIB, 4 * KIB, 0x43)]
    path = make_image(tmp_path / "disk.raw", "raw", size_bytes, writes=writes)
    route.define(domain_xml(("vda", path, "raw")))
    return Guest(route, qemu_img, tmp_path, (path,), "raw")


@pytest.fixture(params=["chain", "raw"])
def guest(request: pytest.FixtureRequest, route: Route) -> Guest:
    """Each of the two disks."""
    made: Guest = request.getfixturevalue(f"{request.param}_guest")
    return made
