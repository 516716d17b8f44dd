# SPDX-License-Identifier: Apache-2.0
"""What the parts of these jobs share.

Owns: one lock per domain, and the doors to the engine that tests replace. Invariants: a domain's lock is held for
short sections only (reading and changing its definition, reserving its disks for a job), never while data moves;
whoever also needs a job's own lock takes it after the domain's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol
from weakref import WeakValueDictionary

from virtblock import engine
from virtblock.engine import ImageInfo, PathPolicy, Preallocation
from virtblock.server.core.jobs import JobRegistry
from virtblock.server.core.store import Store
from virtblock.server.drivers.offline.journals import Journals


class OpenChain(Protocol):
    """An open backing chain (`engine.Chain`)."""

    @property
    def layers(self) -> tuple[ImageInfo, ...]: ...
    @property
    def size_bytes(self) -> int: ...
    def required_bytes(
        self,
        format: Literal["raw", "qcow2"],
        mode: Literal["full", "top"] = "full",
        cluster_size_bytes: int = 0,
        *,
        extended_l2: bool | None = None,
        preallocation: Preallocation = "off",
    ) -> int: ...
    def close(self) -> None: ...


class WorkFigures(Protocol):
    """How far the work is (`engine.CopyProgress`)."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def moved_bytes(self) -> int: ...
    @property
    def remaining_bytes(self) -> int: ...
    @property
    def written_bytes(self) -> int: ...
    @property
    def zero_bytes(self) -> int: ...
    @property
    def resumed_bytes(self) -> int: ...


class EngineWork(Protocol):
    """What a job runs: ready to run, then running (`engine.Copy`)."""

    @property
    def is_resumed(self) -> bool: ...
    def keep_unfinished(self, keeps: bool) -> None: ...
    def run(self) -> None: ...
    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def set_bandwidth(self, bytes_per_s: int) -> None: ...
    def progress(self) -> WorkFigures: ...
    def map(self, cell_count: int) -> bytes: ...
    def close(self) -> None: ...


class OpenCopy(EngineWork, Protocol):
    """A copy that is ready to run (`engine.Copy`)."""

    @property
    def digest(self) -> str: ...


class OpenMerge(EngineWork, Protocol):
    """A pull or commit that is ready to run (`engine.Merge`)."""

    @property
    def layers(self) -> tuple[ImageInfo, ...]: ...


@dataclass(frozen=True)
class EngineDoors:
    """How jobs reach the engine."""

    open_chain: Callable[..., OpenChain] = engine.Chain
    open_copy: Callable[..., OpenCopy] = engine.Copy
    open_pull: Callable[..., OpenMerge] = engine.Merge.pull
    open_commit: Callable[..., OpenMerge] = engine.Merge.commit


class _DomainLock:
    """A lock that can be referred to weakly."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


class DomainLocks:
    """One lock per domain UUID, kept for as long as somebody uses it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[str, _DomainLock] = WeakValueDictionary()

    @contextmanager
    def hold(self, uuid: str) -> Iterator[None]:
        """Holds the domain's lock; may be nested in one thread."""
        with self._guard:
            owner = self._locks.get(uuid)
            if owner is None:
                owner = self._locks[uuid] = _DomainLock()
        with owner.lock:
            yield


@dataclass(frozen=True)
class Context:
    """The surroundings of one connection's jobs. `policy` says which files may be opened.

    `journals`: where jobs note what is durable; None: nowhere, and what breaks off begins anew.
    """

    uri: str
    store: Store
    jobs: JobRegistry
    policy: PathPolicy
    strict_libvirt: bool = False
    doors: EngineDoors = field(default_factory=EngineDoors)
    locks: DomainLocks = field(default_factory=DomainLocks)
    journals: Journals | None = None

    def policy_with(self, data_files: Mapping[str, str]) -> PathPolicy:
        """The policy, under which also these data files (by their images) may be opened."""
        return self.policy.with_data_files(data_files) if data_files else self.policy

    def open_chain(
        self,
        layers: Sequence[tuple[str, str]],
        *,
        is_terminated: bool,
        lock: bool,
        data_files: Mapping[str, str] = MappingProxyType({}),
    ) -> OpenChain:
        """Opens a chain under the policy; EngineError."""
        policy = self.policy_with(data_files)
        return self.doors.open_chain(list(layers), policy, terminated=is_terminated, lock=lock)
