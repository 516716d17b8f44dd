# SPDX-License-Identifier: Apache-2.0
"""The four examples of every client, run as their READMEs say."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.probes import LANGUAGES, ROOT, Language, build_probe
from conformance.stage import DaemonStage

from virtblock.client import Client

EXAMPLE_TIMEOUT_S = 60
MIB = 1024 * 1024

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.parametrize("language", [each for each in LANGUAGES if each.examples], ids=lambda each: each.name),
]


@pytest.fixture(scope="module")
def stage() -> Iterator[DaemonStage]:
    """One daemon for all of them."""
    made = DaemonStage()
    yield made
    made.close()


def run(language: Language, example: str, *arguments: str) -> str:
    """What an example prints. It must succeed."""
    build_probe(language)
    command = [*language.examples[example], *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=EXAMPLE_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def same_content(one: Path | str, other: Path | str) -> None:
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", one, other], check=True, capture_output=True)


def test_connect_and_list(language: Language, stage: DaemonStage) -> None:
    with stage.case("chain"):
        printed = run(language, "list", stage.variables["target"])
        assert stage.variables["guest"] in printed
        assert stage.variables["top"] in printed


def test_copy_and_pivot(language: Language, stage: DaemonStage) -> None:
    with stage.case("chain"), Client(stage.variables["target"]) as client:
        guest, copy = stage.variables["guest"], f"{stage.variables['dir']}/copy.qcow2"
        printed = run(language, "copy", stage.variables["target"], guest, "vda", copy)
        assert "COMPLETED" in printed.upper()
        [disk] = client.list_disks(guest)
        assert disk.source_path == copy
        same_content(stage.variables["top"], copy)


def test_incremental_copy(language: Language, stage: DaemonStage) -> None:
    with stage.case("chain"):
        top, copy = stage.variables["top"], f"{stage.variables['dir']}/copy.qcow2"
        arguments = (stage.variables["target"], stage.variables["guest"], "vda", "backup", copy)
        run(language, "incremental", *arguments)
        same_content(top, copy)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 0x77 8M 64k", top], check=True)
        printed = run(language, "incremental", *arguments)
        same_content(top, copy)
        copied = int(printed.split("copied ")[1].split()[0])
        assert 0 < copied <= MIB


def test_watch_and_resume(language: Language, stage: DaemonStage, tmp_path: Path) -> None:
    """Stopped after two changes, it goes on with the third, which came while it was away."""
    build_probe(language)
    with stage.case("chain"), Client(stage.variables["target"]) as client:
        guest = stage.variables["guest"]
        arguments = [*language.examples["watch"], stage.variables["target"], str(tmp_path / "token"), "2"]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            assert watching.stdout.readline().startswith("watching ")
            client.block_rebase(guest, "vda", f"{stage.variables['dir']}/copy.qcow2", flags=8)
            first = watching.stdout.read().splitlines()
            assert watching.wait(EXAMPLE_TIMEOUT_S) == 0
        client.block_job_abort(guest, "vda")
        rest = run(language, "watch", stage.variables["target"], str(tmp_path / "token"), "2").splitlines()[1:]
        numbers = [int(line.partition(":")[0]) for line in (*first, *rest)]
        assert len(numbers) == 4
        assert numbers == sorted(set(numbers))
