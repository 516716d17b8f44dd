# SPDX-License-Identifier: Apache-2.0
"""Runs the command line in this process over a fake client, and virsh beside it."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from cli.command_line import DOMAIN_XML, Ran, Virtblock
from cli.fake_client import FakeClient

from virtblock.cli import runner
from virtblock.cli.main import main


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """The fake client that the command line gets."""
    fake = FakeClient({"get_xml_desc": DOMAIN_XML})
    monkeypatch.setattr(runner, "open_client", lambda _options: fake)
    return fake


@pytest.fixture
def virtblock(client: FakeClient, capsys: pytest.CaptureFixture[str]) -> Virtblock:
    """Runs `virtblock WORDS…` over the fake client."""

    def run(*words: str) -> Ran:
        capsys.readouterr()
        exit_code = main(words)
        captured = capsys.readouterr()
        return Ran(exit_code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def virsh() -> Virtblock:
    """Runs `virsh -c test:///default WORDS…`: libvirt's own driver for tests, which needs no daemon."""
    program = shutil.which("virsh")
    if program is None:
        pytest.skip("virsh is not installed")

    def run(*words: str) -> Ran:
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [program, "-c", "test:///default", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
