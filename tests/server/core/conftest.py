# SPDX-License-Identifier: Apache-2.0
"""A core over a file of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server.core.samples import Apis, BareDriver, Core


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    """Store, log and registry."""
    opened = Core.open(tmp_path / "state.db")
    yield opened
    opened.store.close()


@pytest.fixture
def apis(core: Core) -> Apis:
    """Every API class over a driver with block jobs."""
    return Apis.over(core)


@pytest.fixture
def bare_apis(core: Core) -> Apis:
    """Every API class over a driver without block jobs."""
    return Apis.over(core, BareDriver)
