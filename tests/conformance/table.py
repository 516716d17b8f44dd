# SPDX-License-Identifier: Apache-2.0
"""The table of languages and cases: `python -m conformance.table [LANGUAGE…|missing]` plays them and writes it.

Owns: what stands between the markers of clients/README.md, a row for each file of cases, and clients/CONFORMANCE.md, a
row for each case. Invariant: a mark is written for what was played, and for nothing else: in this run, or for what this
run leaves out, in the one that wrote the table before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from conformance.case_files import Case, load_cases
from conformance.play import Player
from conformance.probes import CLIENTS, LANGUAGES, Language
from conformance.stage import DaemonStage

SUMMARY_FILE = CLIENTS / "README.md"
FULL_FILE = CLIENTS / "CONFORMANCE.md"
BEGIN, END = "<!-- conformance: written by `make conformance` -->", "<!-- conformance: end -->"
PASSED, FAILED = "✓", "✗"
MISSING = "missing"
TOPICS = {
    "connect": "the connection, its capabilities, look-ups",
    "domain": "definitions, states, disks",
    "jobs": "copies, pulls, commits, bitmaps: their calls, ends and errors",
    "link": "targets, TLS, read-only, deadlines, cancelling, a server that dies",
    "newer": "a newer server: unknown numbers and fields, extremes, errors of every form",
    "watch": "watching and resuming",
}

# Of each case's name, the names of the languages that passed it.
Results = Mapping[str, frozenset[str]]


def play_all(cases: list[Case], languages: Iterable[Language], before: Results) -> Results:
    """The cases in these languages but for what passed before."""
    passed = {case.name: set(before.get(case.name, frozenset())) for case in cases}
    for language in languages:
        missing = [case for case in cases if language.name not in passed[case.name]]
        if not missing:
            continue
        stage = DaemonStage()
        player = Player(language, stage)
        try:
            for case in missing:
                if _passes(player, language, case):
                    passed[case.name].add(language.name)
        finally:
            player.close()
            stage.close()
    return {name: frozenset(names) for name, names in passed.items()}


def _passes(player: Player, language: Language, case: Case) -> bool:
    try:
        player.play(case)
    except AssertionError as error:
        print(f"{language.name}: {error}", file=sys.stderr)
        return False
    return True


def summary(results: Results) -> str:
    """How many cases of each file each language passes."""
    rows = []
    for file, names in _by_file(results).items():
        counts = [_count(sum(language in results[name] for name in names), len(names)) for language in _languages()]
        rows.append([f"[`{file}`](../tests/conformance/cases/{file}.toml)", TOPICS[file], *counts])
    totals = [_count(sum(language in each for each in results.values()), len(results)) for language in _languages()]
    rows.append(["all", "[each case](CONFORMANCE.md)", *totals])
    return _table(["Cases", "On", *_languages()], rows)


def full(results: Results) -> str:
    """Each case by each language."""
    text = (
        "# Each conformance case in each language\n\nWritten by `make conformance`. The cases are data: "
        "[`tests/conformance/cases`](../tests/conformance/cases).\n"
    )
    for file, names in _by_file(results).items():
        rows = [
            [name.partition("/")[2], *(PASSED if language in results[name] else FAILED for language in _languages())]
            for name in names
        ]
        text += f"\n## {file}: {TOPICS[file]}\n\n{_table(['Case', *_languages()], rows)}"
    return text


def read_full(text: str) -> Results:
    """What `full` wrote, of any languages."""
    results: dict[str, frozenset[str]] = {}
    file, languages = "", []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            file = line[3:].partition(":")[0]
        elif cells[0] == "Case":
            languages = cells[1:]
        elif line.startswith("|") and cells[0] != "---":
            marks = zip(languages, cells[1:], strict=True)
            results[f"{file}/{cells[0]}"] = frozenset(language for language, mark in marks if mark == PASSED)
    return results


def with_summary(text: str, table: str) -> str:
    """The text of a README with the table between its markers."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def _by_file(results: Results) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name in results:
        files.setdefault(name.partition("/")[0], []).append(name)
    return files


def _languages() -> list[str]:
    return [language.name for language in LANGUAGES]


def _count(passed: int, of: int) -> str:
    return str(of) if passed == of else f"{passed} of {of}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write(results: Results, summary_file: Path = SUMMARY_FILE, full_file: Path = FULL_FILE) -> None:
    """Both files."""
    summary_file.write_text(with_summary(summary_file.read_text("utf-8"), summary(results)), "utf-8")
    full_file.write_text(full(results), "utf-8")


def main() -> int:
    """Play, write, and fail where a case did. The arguments are languages, or MISSING."""
    wanted = sys.argv[1:]
    before = read_full(FULL_FILE.read_text("utf-8")) if wanted and FULL_FILE.exists() else {}
    languages = [language for language in LANGUAGES if wanted in ([], [MISSING]) or language.name in wanted]
    if wanted != [MISSING]:
        anew = {language.name for language in languages}
        before = {name: passed - anew for name, passed in before.items()}
    results = play_all(load_cases(), languages, before)
    write(results)
    failed = sum(len(LANGUAGES) - len(each) for each in results.values())
    print(f"{len(results)} cases in {len(LANGUAGES)} languages: {failed} failed or not played")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
