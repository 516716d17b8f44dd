# SPDX-License-Identifier: Apache-2.0
"""Plays the cases of one language.

Owns: `Player`, which has the language's probe and the daemon that the cases share, from its start to `close`.
"""

from __future__ import annotations

from conformance.case_files import Case
from conformance.case_run import Run
from conformance.probes import Language, Probe, build_probe
from conformance.stage import DaemonStage, ScriptedStage


class Player:
    """One language's probe, built and running."""

    def __init__(self, language: Language, stage: DaemonStage) -> None:
        build_probe(language)
        self._probe = Probe(language)
        self._stage = stage

    def play(self, case: Case) -> None:
        """The whole case, step by step. Raises AssertionError that names the step."""
        if case.server == "scripted":
            scripted = ScriptedStage()
            try:
                Run(case, self._probe, scripted).play()
            finally:
                scripted.close()
            return
        with self._stage.case(case.guest):
            Run(case, self._probe, self._stage).play()

    def close(self) -> None:
        """End the probe; the stage stays."""
        self._probe.close()
