# SPDX-License-Identifier: Apache-2.0
"""Every conformance case in every language, against the same servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from conformance.case_files import Case, load_cases
from conformance.play import Player
from conformance.probes import LANGUAGES, Language
from conformance.stage import DaemonStage

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
def player_of(stage: DaemonStage) -> Iterator[Callable[[Language], Player]]:
    """The player of a language, its probe built and started when first asked for."""
    running: dict[str, Player] = {}

    def player(language: Language) -> Player:
        if language.name not in running:
            running[language.name] = Player(language, stage)
        return running[language.name]

    yield player
    for each in running.values():
        each.close()


def _parameters() -> Iterator[object]:
    for language in LANGUAGES:
        group = pytest.mark.xdist_group(f"probe-{language.name}")
        for case in CASES:
            yield pytest.param(language, case, id=f"{language.name}-{case.name}", marks=group)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("language", "case"), list(_parameters()))
def test_case(language: Language, case: Case, player_of: Callable[[Language], Player]) -> None:
    """The whole case, step by step."""
    player_of(language).play(case)


def test_there_are_enough_cases() -> None:
    """So many that a language which passes them is a client that can be used."""
    assert len(CASES) >= CASE_COUNT_MIN
