# SPDX-License-Identifier: Apache-2.0
"""The written table of languages and cases is that of today's: `test_languages.py` is what proves its marks."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import table
from conformance.case_files import load_cases
from conformance.probes import LANGUAGES

NAMES = [case.name for case in load_cases()]
ALL_PASSED = {name: frozenset(language.name for language in LANGUAGES) for name in NAMES}


def test_the_written_tables_are_of_these_cases_and_languages() -> None:
    """`make conformance` writes them anew."""
    readme = table.SUMMARY_FILE.read_text("utf-8")
    assert readme == table.with_summary(readme, table.summary(ALL_PASSED)), "run `make conformance`"
    assert table.FULL_FILE.read_text("utf-8") == table.full(ALL_PASSED), "run `make conformance`"


@pytest.mark.parametrize("language", [language.name for language in LANGUAGES])
def test_a_case_that_failed_is_told(language: str, tmp_path: Path) -> None:
    results = {**ALL_PASSED, NAMES[0]: ALL_PASSED[NAMES[0]] - {language}}
    readme, full = tmp_path / "README.md", tmp_path / "CONFORMANCE.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(results, readme, full)
    of = len(NAMES)
    assert f"{of - 1} of {of}" in readme.read_text()
    assert "old" not in readme.read_text()
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("\nafter\n")
    assert full.read_text().count(table.FAILED) == 1
    assert table.read_full(full.read_text()) == results


def test_every_file_of_cases_has_its_topic() -> None:
    assert table.TOPICS.keys() == {name.partition("/")[0] for name in NAMES}
