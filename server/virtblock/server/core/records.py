# SPDX-License-Identifier: Apache-2.0
"""The records of the model as JSON, the form in which the store keeps them.

Owns: the mapping both ways. Invariants: what was written by an older version is read: a field that is missing takes
the model's default, and one that this version does not know is left out; enums are kept by their values.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any, TypeVar

from virtblock.server.core.model import (
    BlockJob,
    BlockJobEvent,
    BlockJobStatus,
    BlockJobType,
    Domain,
    DomainEventId,
    JobError,
    JobProgress,
    JobState,
    LifecycleEvent,
)

KIND_JOB = "job"
KIND_LIFECYCLE = "lifecycle"
KIND_BLOCK_JOB = "block-job"

Record = TypeVar("Record")


def job_to_json(job: BlockJob) -> str:
    """A block job with everything it has, `details` included."""
    return _dumps(asdict(job))


def job_from_json(text: str) -> BlockJob:
    """The job that `job_to_json` wrote."""
    return _job(json.loads(text))


def payload_to_json(payload: BlockJob | LifecycleEvent | BlockJobEvent) -> tuple[str, str]:
    """The kind and the JSON of a log entry's payload. The driver's `details` are not part of the log."""
    if isinstance(payload, BlockJob):
        values = asdict(payload)
        del values["details"]
        return KIND_JOB, _dumps(values)
    kind = KIND_LIFECYCLE if isinstance(payload, LifecycleEvent) else KIND_BLOCK_JOB
    return kind, _dumps(asdict(payload))


def payload_from_json(kind: str, text: str) -> BlockJob | LifecycleEvent | BlockJobEvent:
    """The payload that `payload_to_json` wrote."""
    values = json.loads(text)
    if kind == KIND_JOB:
        return _job(values)
    domain = _build(Domain, values["domain"])
    if kind == KIND_LIFECYCLE:
        return LifecycleEvent(domain, values["event"], values["detail"])
    return BlockJobEvent(
        domain,
        DomainEventId(values["event_id"]),
        values["disk"],
        BlockJobType(values["type"]),
        BlockJobStatus(values["status"]),
    )


def _job(values: dict[str, Any]) -> BlockJob:
    error = values.get("error")
    return _build(
        BlockJob,
        values
        | {
            "type": BlockJobType(values["type"]),
            "state": JobState(values["state"]),
            "progress": _build(JobProgress, values.get("progress", {})),
            "error": None if error is None else _build(JobError, error),
        },
    )


def _build(record: type[Record], values: dict[str, Any]) -> Record:
    known = {field.name for field in fields(record)}  # type: ignore[arg-type]
    return record(**{name: value for name, value in values.items() if name in known})


def _dumps(values: dict[str, Any]) -> str:
    return json.dumps(values, default=_enum_value, separators=(",", ":"))


def _enum_value(value: object) -> str:
    if isinstance(value, JobState):
        return value.value
    raise TypeError(f"{type(value).__name__} cannot be kept: {value!r}")
