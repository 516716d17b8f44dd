# SPDX-License-Identifier: Apache-2.0
"""The probes of the languages: how each is built and started, and one that runs.

Owns: `LANGUAGES`, `build_probe` and `Probe`. Invariant: a probe that does not answer within the limit is killed and
named; it never hangs a test.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "clients"
BUILD_TIMEOUT_S = 900
ANSWER_TIMEOUT_S = 60


@dataclass(frozen=True, eq=False)
class Language:
    """A client's language: commands, relative to the project's root. `build` is empty where nothing is compiled."""

    name: str
    build: tuple[str, ...]
    start: tuple[str, ...]
    examples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Commands of "list", "copy", "incremental" and "watch"."""


GO_EXAMPLES = {"list": "list", "copy": "copyandpivot", "incremental": "incremental", "watch": "watch"}
JAVA_EXAMPLES = {"list": "ListDisks", "copy": "CopyAndPivot", "incremental": "Incremental", "watch": "Watch"}
JAVA = ("java", "-cp", "clients/java/target/*:clients/java/target/dependency/*:build/probes/java")
SNAKE_EXAMPLES = {**GO_EXAMPLES, "copy": "copy_and_pivot"}

LANGUAGES = (
    Language("Python", (), (sys.executable, "clients/python/probe/probe.py")),
    Language(
        "Go",
        ("clients/go/build-probe.sh",),
        ("build/probes/go/probe",),
        {name: (f"build/probes/go/{file}",) for name, file in GO_EXAMPLES.items()},
    ),
    Language(
        "TypeScript",
        ("clients/typescript/build-probe.sh",),
        ("node", "clients/typescript/probe/probe.mjs"),
        {name: ("node", f"clients/typescript/dist/examples/{file}.js") for name, file in SNAKE_EXAMPLES.items()},
    ),
    Language(
        "Java",
        ("clients/java/build-probe.sh",),
        (*JAVA, "Probe"),
        {name: (*JAVA, main) for name, main in JAVA_EXAMPLES.items()},
    ),
    Language(
        "C++",
        ("clients/cpp/build-probe.sh",),
        ("build/probes/cpp/probe",),
        {name: (f"build/probes/cpp/{file}",) for name, file in SNAKE_EXAMPLES.items()},
    ),
    Language(
        "Rust",
        ("clients/rust/build-probe.sh",),
        ("clients/rust/target/debug/virtblock-probe",),
        {name: (f"clients/rust/target/debug/examples/{file}",) for name, file in SNAKE_EXAMPLES.items()},
    ),
)


@functools.cache
def build_probe(language: Language) -> None:
    """Compile it; the output is shown when it fails. Of several test processes one builds and the others wait."""
    if not language.build:
        return
    folder = ROOT / "build" / "probes"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{language.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(language)


def _build(language: Language) -> None:
    done = subprocess.run(
        language.build, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(language.build)}:\n{done.stdout}{done.stderr}"


class Probe:
    """A probe that runs, from its start to `close`."""

    def __init__(self, language: Language) -> None:
        environ = {
            name: value for name, value in os.environ.items() if name not in ("VIRTBLOCK_SERVER", "XDG_RUNTIME_DIR")
        }
        self._process = subprocess.Popen(
            language.start, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ, bufsize=1
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name=f"probe-{language.name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, **command: Any) -> dict[str, Any]:
        """What it answers to one command. Raises AssertionError when it dies, hangs or crashes."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: its end is what is read
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        try:
            line = self._answers.get(timeout=ANSWER_TIMEOUT_S)
        except queue.Empty:
            self._process.kill()
            raise AssertionError(f"no answer within {ANSWER_TIMEOUT_S} s to {command}") from None
        if not line:
            self._answers.put("")  # for the commands that follow
        assert line, f"the probe ended with {self._process.wait()} at {command}"
        answer: dict[str, Any] = json.loads(line)
        assert "crash" not in answer, f"{command}: {answer['crash']}"
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
