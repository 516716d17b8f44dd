# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the embedded driver's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server.embedded.house import House

from virtblock.server.core.errors import VirError


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Makes houses and closes them in the end."""
    houses: list[House] = []

    def make(folder: Path | None = None, **options: Any) -> House:
        if folder is None:
            folder = tmp_path / f"state{len(houses)}"
            folder.mkdir()
        houses.append(House(folder, **options))
        return houses[-1]

    yield make
    for house in houses:
        house.stop()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    """A driver whose policy allows any file."""
    return make_house()


@pytest.fixture
def refused() -> Callable[..., VirError]:
    """Calls a function that must be refused: `refused((8, 10, "invalid argument: …"), call, *arguments)`."""

    def check(expected: tuple[int, int, str], call: Callable[..., object], *arguments: Any, **more: Any) -> VirError:
        with pytest.raises(VirError) as caught:
            call(*arguments, **more)
        error = caught.value
        assert (error.number, error.domain, error.message) == expected
        return error

    return check
