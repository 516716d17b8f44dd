# SPDX-License-Identifier: Apache-2.0
"""The house itself: what may import what when it is really imported, what is installed, how files begin and end."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINE_COUNT_MAX = 700
SPDX = "SPDX-License-Identifier: Apache-2.0"
SOURCE_SUFFIXES = {
    ".py",
    ".pyi",
    ".pyx",
    ".pxd",
    ".pxi",
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".hpp",
    ".proto",
    ".sh",
    ".go",
    ".rs",
}
SOURCE_SUFFIXES |= {".java", ".ts", ".js", ".toml"}
# A language's own tool writes or owns these files.
FOREIGN_NAMES = {"Cargo.toml"}


def _tracked() -> list[Path]:
    """Every file of the project as git knows it, those not yet added included."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listing.decode().split("\0") if name and (ROOT / name).is_file()]


def _is_generated(path: Path) -> bool:
    return "gen" in path.relative_to(ROOT).parts or path.name.endswith(".pb.go")


SOURCES = [
    path
    for path in _tracked()
    if path.suffix in SOURCE_SUFFIXES and not _is_generated(path) and path.name not in FOREIGN_NAMES
]


def _modules_after(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter has loaded after `statement`."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_virtblock_is_a_namespace() -> None:
    """An `__init__.py` directly in a `*/virtblock/` would hide every other root."""
    namespace = importlib.import_module("virtblock")
    assert namespace.__file__ is None
    assert [path for path in _tracked() if path.name == "__init__.py" and path.parent.name == "virtblock"] == []


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("virtblock.engine", {"grpc", "google.protobuf", "libvirt", "virtblock.server", "virtblock.v1"}),
        ("virtblock.engine.cli", {"grpc", "google.protobuf", "libvirt", "virtblock.server", "virtblock.v1"}),
        ("virtblock.client", {"virtblock.server", "virtblock.engine", "libvirt"}),
        ("virtblock.cli.main", {"virtblock.server", "virtblock.engine", "libvirt"}),
        ("virtblock.libvirt", {"virtblock.server", "virtblock.engine", "libvirt", "libvirtmod"}),
        ("virtblock.server.core", {"grpc", "google.protobuf", "libvirt", "virtblock.v1"}),
    ],
)
def test_importing_loads_nothing_from_above(module: str, forbidden: set[str]) -> None:
    """The import contracts read source text; this looks at what is really loaded."""
    loaded = _modules_after(f"import {module}")
    assert module in loaded
    assert loaded & forbidden == set()


@pytest.mark.parametrize("name", ["virtblockd", "virtblock", "virtblock-copy"])
def test_console_script_starts(name: str) -> None:
    """Each console script is installed beside the interpreter and answers `--help`."""
    script = Path(sys.executable).parent / name
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert name in done.stdout


def test_console_scripts_are_those_declared() -> None:
    """Nothing else of ours lands in the user's PATH."""
    scripts = importlib.metadata.distribution("virtblock").entry_points.select(group="console_scripts")
    assert {script.name for script in scripts} == {"virtblockd", "virtblock", "virtblock-copy"}


def test_client_needs_no_server_packages() -> None:
    """Who installs the client alone does not get the server's or the tests' packages."""
    required = importlib.metadata.requires("virtblock") or []
    base = {line.split(">")[0] for line in required if "extra ==" not in line}
    assert base == {"grpcio", "grpcio-status", "protobuf", "googleapis-common-protos"}


def test_there_are_sources_to_check() -> None:
    """Keeps the two tests below from passing over an empty list."""
    suffixes = {path.suffix for path in SOURCES}
    assert {".py", ".pyx", ".c", ".h", ".proto", ".sh"} <= suffixes


def test_every_source_names_its_licence() -> None:
    """The SPDX line is the first, or the second after `#!`."""
    without = [str(path.relative_to(ROOT)) for path in SOURCES if not _names_licence(path)]
    assert without == []


def _names_licence(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = 1 if lines and lines[0].startswith("#!") else 0
    return len(lines) > first and SPDX in lines[first]


def test_no_source_is_too_long_to_read() -> None:
    """A file that outgrows this holds two things; but a service and its messages, comments included, stay together."""
    code = [path for path in SOURCES if path.suffix != ".proto"]
    lengths = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in code}
    assert {name: length for name, length in lengths.items() if length > LINE_COUNT_MAX} == {}
