# SPDX-License-Identifier: Apache-2.0
"""Covering arrays: few rows in which every legal combination of values of any two (or three) axes occurs.

Owns: choosing the rows. The same space and strength always give the same rows, so that a test's name means something.
Invariants: every row is legal and names a value for every axis; what no row holds is a combination that cannot be had.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Row = dict[str, str]
Cell = tuple[int, int]  # axis, value


class Rule(NamedTuple):
    """A combination that cannot be had: where `is_refused` of the named axes' values is true."""

    axes: tuple[str, ...]
    is_refused: Callable[..., Any]


class Space:
    """Axes with their values, the plain one first, and the rules between them."""

    def __init__(self, axes: Mapping[str, Sequence[str]], rules: Sequence[Rule] = ()) -> None:
        self.axes = dict(axes)
        self._names = list(self.axes)
        self._values = [list(values) for values in self.axes.values()]
        # Of each axis: the rules that name it, as axes and the values that they refuse together.
        self._rules_of: list[list[tuple[tuple[int, ...], set[tuple[int, ...]]]]] = [[] for _ in self._names]
        for rule in rules:
            axes_of_rule = tuple(self._names.index(name) for name in rule.axes)
            whole = itertools.product(*(enumerate(self._values[axis]) for axis in axes_of_rule))
            refused = {tuple(i for i, _ in cells) for cells in whole if rule.is_refused(*(value for _, value in cells))}
            for axis in axes_of_rule:
                self._rules_of[axis].append((axes_of_rule, refused))

    def is_legal(self, row: Mapping[str, str]) -> bool:
        """Whether no rule refuses a row, which may lack axes."""
        partial = [self._values[axis].index(row[name]) if name in row else -1 for axis, name in enumerate(self._names)]
        return all(self._allows(partial, axis) for axis in range(len(partial)))

    def cover(self, strength: int) -> list[Row]:
        """Rows with every legal combination of values of `strength` axes."""
        chance = random.Random(strength)
        left = self._combinations(strength)
        rows = []
        for seed in list(left):
            if seed not in left:
                continue
            row = self._new_row(seed, left, strength, chance)
            if row is None:  # the rest of no row goes with it
                del left[seed]
                continue
            rows.append(row)
            for cells in itertools.combinations(enumerate(row), strength):
                left.pop(cells, None)
        return [{name: self._values[axis][row[axis]] for axis, name in enumerate(self._names)} for row in rows]

    def _combinations(self, strength: int) -> dict[tuple[Cell, ...], None]:
        cells = [[(axis, value) for value in range(len(values))] for axis, values in enumerate(self._values)]
        chosen = itertools.combinations(cells, strength)
        return dict.fromkeys(combination for axes in chosen for combination in itertools.product(*axes))

    def _allows(self, partial: list[int], axis: int) -> bool:
        """Whether the rules that concern the axis allow what is chosen so far; what is open (-1) is no objection."""
        return all(tuple([partial[i] for i in axes]) not in refused for axes, refused in self._rules_of[axis])

    def _complete(self, partial: list[int]) -> list[int] | None:
        """Some legal row with these cells, plain values first; None: there is none."""
        if -1 not in partial:
            return partial
        axis = partial.index(-1)
        for value in range(len(self._values[axis])):
            tried = [*partial[:axis], value, *partial[axis + 1 :]]
            if self._allows(tried, axis) and (row := self._complete(tried)) is not None:
                return row
        return None

    def _new_row(
        self, seed: tuple[Cell, ...], left: dict[tuple[Cell, ...], None], strength: int, chance: random.Random
    ) -> list[int] | None:
        """A legal row with the seed's cells, and with as much as can be had of what is left to cover."""
        row = [-1] * len(self._names)
        for axis, value in seed:
            row[axis] = value
        whole = self._complete(row) if all(self._allows(row, axis) for axis, _ in seed) else None
        if whole is None:
            return None
        open_axes = [axis for axis, value in enumerate(row) if value < 0]
        chance.shuffle(open_axes)
        for axis in open_axes:
            chosen = [(index, value) for index, value in enumerate(row) if value >= 0]
            partners = list(itertools.combinations(chosen, strength - 1))
            values = list(range(len(self._values[axis])))
            chance.shuffle(values)
            values.sort(key=lambda value: -self._gain((axis, value), partners, left))
            row, whole = next(found for value in values if (found := self._with(row, whole, axis, value)))
        return row

    def _with(self, row: list[int], whole: list[int], axis: int, value: int) -> tuple[list[int], list[int]] | None:
        """The row with one more cell, and a whole legal row that has its cells; `whole` is one without that cell."""
        changed = [*whole[:axis], value, *whole[axis + 1 :]]
        row = [*row[:axis], value, *row[axis + 1 :]]
        if self._allows(changed, axis):
            return row, changed
        completed = self._complete(row) if self._allows(row, axis) else None
        return (row, completed) if completed is not None else None

    @staticmethod
    def _gain(cell: Cell, partners: list[tuple[Cell, ...]], left: dict[tuple[Cell, ...], None]) -> int:
        return sum(tuple(sorted((*partner, cell))) in left for partner in partners)
