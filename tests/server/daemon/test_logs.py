# SPDX-License-Identifier: Apache-2.0
"""Log lines: one record is one line, whatever a caller put into a name."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtblock.server import logs, service_manager


@pytest.fixture
def restored() -> Iterator[None]:
    """The logger as it was, because `configure` changes the process's own."""
    root = logging.getLogger(logs.ROOT_LOGGER)
    before = (root.handlers, root.level, root.propagate)
    yield
    root.handlers, root.level, root.propagate = before


def record_with(fields: dict[str, object], exc_info: BaseException | None = None) -> logging.LogRecord:
    error = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info is not None else None
    record = logging.LogRecord("virtblock.call", logging.INFO, __file__, 1, "call", None, error)
    record.fields = fields
    return record


def test_text_is_key_and_value() -> None:
    line = logs.TextFormatter().format(record_with({"domain": "guest", "disk": "a b", "ok": True, "n": 1.5}))
    assert line.endswith('level=info logger=virtblock.call msg=call domain=guest disk="a b" ok=true n=1.5')


def test_json_has_the_fields_beside_the_rest() -> None:
    entry = json.loads(logs.JsonFormatter().format(record_with({"domain": "guest", "level": "forged"})))
    assert (entry["msg"], entry["domain"], entry["level"]) == ("call", "guest", "info")


@given(value=st.text(st.characters()))
def test_no_value_makes_a_second_line_or_field(value: str) -> None:
    line = logs.TextFormatter().format(record_with({"domain": value, "end": "1"}))
    assert line.splitlines() == [line]
    assert line.isprintable()
    assert line.endswith(" end=1")
    quoted = line.partition("domain=")[2].removesuffix(" end=1")
    assert quoted == value or json.loads(quoted) == value
    line = logs.JsonFormatter().format(record_with({"domain": value}))
    assert line.splitlines() == [line]
    assert json.loads(line)["domain"] == value


def test_a_traceback_stays_in_its_line() -> None:
    for formatter in (logs.TextFormatter(), logs.JsonFormatter()):
        line = formatter.format(record_with({}, ValueError("x\ny")))
        assert "\n" not in line
        assert "ValueError" in line


@pytest.mark.usefixtures("restored")
def test_configured_logs_go_to_the_stream_alone(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logs.configure("json", stream)
    logging.getLogger("virtblock.x").info("one", extra={"fields": {"a": 1}})
    logging.getLogger("virtblock.x").debug("two")
    assert [json.loads(line)["msg"] for line in stream.getvalue().splitlines()] == ["one"]
    assert capsys.readouterr() == ("", "")


def test_a_service_manager_that_does_not_listen_stops_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    service_manager.notify(service_manager.READY, str(tmp_path_factory.mktemp("none") / "socket"))
    service_manager.notify(service_manager.READY, "")
    service_manager.signal_ready(987)
