# SPDX-License-Identifier: Apache-2.0
"""Runs one case through one probe.

Owns: the verbs of a step and the variables of a case. Invariant: what a case leaves open (streams, clients) is closed
whatever came.
"""

from __future__ import annotations

import base64
import re
import time
from typing import Any, Protocol

from conformance import case_messages
from conformance.case_files import Case
from conformance.probes import Probe
from google.protobuf.message import Message

from virtblock.v1 import block_job_service_pb2, errors_pb2

UNTIL_TIMEOUT_S = 60
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_PROBE_KEYS = ("target", "read_only", "insecure", "connection_uri", "tls", "timeout_ms", "cancel_after_ms")


class Stage(Protocol):
    """What a case is played on: a server and what the steps may do to it."""

    variables: dict[str, Any]

    def kill(self) -> None: ...
    def script(self, method: str, step: dict[str, Any]) -> None: ...
    def last_request(self, method: str) -> Message: ...


class Run:
    """One case on one probe."""

    def __init__(self, case: Case, probe: Probe, stage: Stage) -> None:
        self._case = case
        self._probe = probe
        self._stage = stage
        self._variables = dict(stage.variables)
        self._streams: dict[str, str] = {}
        self._clients: set[str] = set()

    def play(self) -> None:
        """Every step in turn. Raises AssertionError that names the step."""
        try:
            if not any("dial" in step for step in self._case.steps):
                self._step({"dial": "main", "target": "${target}"})
            for number, step in enumerate(self._case.steps):
                try:
                    self._step(step)
                except AssertionError as error:
                    raise AssertionError(f"{self._case.name}, step {number}: {step}\n{error}") from error
        finally:
            for stream in self._streams:
                self._probe.ask(op="close_stream", stream=stream)
            for client in self._clients:
                self._probe.ask(op="close", client=client)

    def _filled(self, value: Any) -> Any:
        """The value with every ${variable} replaced; a text that is one variable alone takes its type."""
        if isinstance(value, dict):
            return {key: self._filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._filled(each) for each in value]
        if not isinstance(value, str):
            return value
        whole = _VARIABLE.fullmatch(value)
        if whole:
            return self._variables[whole[1]]
        is_pattern = value.startswith("~")
        return _VARIABLE.sub(
            lambda m: re.escape(str(self._variables[m[1]])) if is_pattern else str(self._variables[m[1]]), value
        )

    def _step(self, step: dict[str, Any]) -> None:
        step = self._filled(step)
        if "kill" in step:
            self._stage.kill()
        elif "script" in step:
            self._stage.script(step["script"], step)
        elif "expect_request" in step:
            self._check_message(step, self._stage.last_request(step["expect_request"]))
        elif "next" in step:
            self._next(step)
        else:
            self._command(step)

    def _command(self, step: dict[str, Any]) -> None:
        command = {key: step[key] for key in _PROBE_KEYS if key in step and not ("call" in step and key == "target")}
        method = ""
        if "dial" in step:
            command |= {"op": "dial", "client": step["dial"]}
        elif "call" in step:
            method = step["call"]
            command |= {"op": "call", "client": step.get("client", "main"), "method": method}
        elif "open" in step:
            method = step["method"]
            command |= {"op": "open", "client": step.get("client", "main"), "stream": step["open"], "method": method}
        elif "watch" in step:
            method = "BlockJobService.WatchBlockJobs"
            command |= {"op": "watch", "client": step.get("client", "main"), "stream": step["watch"]}
        elif "close_stream" in step:
            command |= {"op": "close_stream", "stream": step["close_stream"]}
        else:
            command |= {"op": "close", "client": step["close"]}
        if method:
            command["request"] = _text(case_messages.request(method, step.get("request", {})))
        answer = self._probe.ask(**command)
        self._remember(step, answer)
        self._check(step, answer, method if "call" in step else "")

    def _remember(self, step: dict[str, Any], answer: dict[str, Any]) -> None:
        if "error" in answer:
            return
        if "dial" in step:
            self._clients.add(step["dial"])
        if "open" in step:
            self._streams[step["open"]] = step["method"]
        if "watch" in step:
            self._streams[step["watch"]] = ""
        if "close" in step:
            self._clients.discard(step["close"])
        if "close_stream" in step:
            self._streams.pop(step["close_stream"])

    def _next(self, step: dict[str, Any]) -> None:
        method = self._streams[step["next"]]
        deadline_s = time.monotonic() + UNTIL_TIMEOUT_S
        while True:
            answer = self._probe.ask(op="next", stream=step["next"])
            try:
                self._check(step, answer, method, is_event=not method)
                return
            except AssertionError:
                if not step.get("until") or "response" not in answer or time.monotonic() > deadline_s:
                    raise

    def _check(self, step: dict[str, Any], answer: dict[str, Any], method: str, *, is_event: bool = False) -> None:
        if "error" in step:
            assert "error" in answer, f"expected an error, got {answer}"
            _check_error(step["error"], answer["error"])
            return
        assert "error" not in answer, f"failed: {answer['error']}"
        if "end" in step:
            assert answer.get("end"), f"expected the end, got {answer}"
            return
        if "dial" in step and "expect_target" in step:
            assert answer["target"] == step["expect_target"], answer
        if "response" not in answer:
            assert "response" not in step, f"expected a message, got {answer}"
            return
        data = base64.b64decode(answer["response"])
        message = (
            block_job_service_pb2.BlockJobEvent.FromString(data) if is_event else case_messages.response(method, data)
        )
        self._check_message(step, message)
        if "save_token" in step:
            self._variables[step["save_token"]] = answer["token"]

    def _check_message(self, step: dict[str, Any], message: Message) -> None:
        lines = case_messages.differences(message, step.get("response", {}))
        lines += [f"{path} is set" for path in step.get("absent", []) if case_messages.is_set(message, path)]
        assert not lines, "\n".join(lines) + f"\n{message}"
        for variable, path in step.get("save", {}).items():
            self._variables[variable] = case_messages.value_at(message, path)


def _check_error(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Every field that is named; number, domain and level by name or number; "null" is libvirt's NULL."""
    fields = errors_pb2.VirError.DESCRIPTOR.fields_by_name
    for name, value in expected.items():
        enumeration = fields[name].enum_type if name in fields else None
        if enumeration is not None and isinstance(value, str):
            value = enumeration.values_by_name[value].number
        if value == "null":
            value = None
        assert case_messages.is_match(found[name], value), f"{name}: {found[name]!r}, expected {value!r}, in {found}"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
