# SPDX-License-Identifier: Apache-2.0
"""Covering arrays hold what they promise: legal rows, and every combination that any legal row has."""

from __future__ import annotations

import itertools

from engine.covering import Rule, Space
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def _spaces(draw: st.DrawFn) -> Space:
    counts = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    axes = {f"axis{number}": [str(value) for value in range(count)] for number, count in enumerate(counts)}
    rules = []
    for _ in range(draw(st.integers(0, 3))):
        names = draw(st.lists(st.sampled_from(list(axes)), min_size=1, max_size=3, unique=True))
        refused = tuple(draw(st.sampled_from(axes[name])) for name in names)
        rules.append(Rule(tuple(names), lambda *values, refused=refused: values == refused))
    return Space(axes, rules)


@settings(max_examples=60, deadline=None)
@given(space=_spaces(), strength=st.integers(1, 3))
def test_everything_legal_is_covered(space: Space, strength: int) -> None:
    """Against the whole cross, from which the illegal rows are struck."""
    strength = min(strength, len(space.axes))
    rows = space.cover(strength)
    names = list(space.axes)
    whole = [dict(zip(names, values, strict=True)) for values in itertools.product(*space.axes.values())]
    legal = [row for row in whole if space.is_legal(row)]
    assert all(row in legal for row in rows)
    assert len(rows) <= len(legal)
    for axes in itertools.combinations(names, strength):
        possible = {tuple(row[axis] for axis in axes) for row in legal}
        assert {tuple(row[axis] for axis in axes) for row in rows} == possible


def test_few_rows() -> None:
    """Ten axes of four values: a million rows in the whole cross, and a few dozen that hold every pair."""
    space = Space({f"axis{number}": list("abcd") for number in range(10)})
    assert 16 <= len(space.cover(2)) <= 45
    assert space.cover(2) == space.cover(2)
