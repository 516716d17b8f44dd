# SPDX-License-Identifier: Apache-2.0
"""Every conformance case in every language, against the same servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from conformance.case_files import Case, load_cases
from conformance.case_run import Run
from conformance.probes import LANGUAGES, Language, Probe, build_probe
from conformance.stage import DaemonStage, ScriptedStage

CASES = load_cases()
CASE_COUNT_MIN = 120

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stage() -> Iterator[DaemonStage]:
    """The daemon of all cases that this process plays."""
    made = DaemonStage()
    yield made
    made.close()


@pytest.fixture(scope="module")
def probe_of() -> Iterator[Callable[[Language], Probe]]:
    """The running probe of a language, built and started when first asked for."""
    running: dict[str, Probe] = {}

    def probe(language: Language) -> Probe:
        if language.name not in running:
            build_probe(language)
            running[language.name] = Probe(language)
        return running[language.name]

    yield probe
    for each in running.values():
        each.close()


def _parameters() -> Iterator[object]:
    for language in LANGUAGES:
        group = pytest.mark.xdist_group(f"probe-{language.name}")
        for case in CASES:
            yield pytest.param(language, case, id=f"{language.name}-{case.name}", marks=group)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("language", "case"), list(_parameters()))
def test_case(language: Language, case: Case, stage: DaemonStage, probe_of: Callable[[Language], Probe]) -> None:
    """The whole case, step by step."""
    probe = probe_of(language)
    if case.server == "scripted":
        scripted = ScriptedStage()
        try:
            Run(case, probe, scripted).play()
        finally:
            scripted.close()
        return
    with stage.case(case.guest):
        Run(case, probe, stage).play()


def test_there_are_enough_cases() -> None:
    """So many that a language which passes them is a client that can be used."""
    assert len(CASES) >= CASE_COUNT_MIN
