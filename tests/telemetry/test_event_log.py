"""The log: whole lines, collected for a moment, never lost."""

import io
import json
from typing import Any

import pytest

from gateway.telemetry.event_log import EventLog

NOON = 1_767_268_800.123


def log_to(sink: io.BytesIO, form: str = "json", level: str = "info") -> EventLog:
    return EventLog(sink, lambda: NOON, form=form, level=level, source="worker-1")


def lines(sink: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_an_event_is_one_json_object_a_line() -> None:
    """With its time, level, source and fields; also fields that JSON does not know."""
    sink = io.BytesIO()
    log = log_to(sink)
    log.write("call", "info", {"task": "T\n", "odd": ValueError("boom")})
    assert sink.getvalue() == b""
    log.flush()
    assert lines(sink) == [
        {
            "time": "2026-01-01T12:00:00.123+00:00",
            "level": "info",
            "event": "call",
            "from": "worker-1",
            "task": "T\n",
            "odd": "boom",
        }
    ]
    log.flush()
    assert len(lines(sink)) == 1


def test_text_for_people() -> None:
    """One line an event, the time of day in front."""
    sink = io.BytesIO()
    log = log_to(sink, form="text")
    log.write("call", "warning", {"task": "T", "status": 200})
    log.flush()
    assert sink.getvalue() == b"12:00:00.123 warning  call task=T status=200\n"


def test_what_is_below_the_level_is_left_out() -> None:
    """The level itself is not."""
    sink = io.BytesIO()
    log = log_to(sink, level="warning")
    for level in ("debug", "info", "warning", "error"):
        log.write(level, level, {})
    log.flush()
    assert [line["event"] for line in lines(sink)] == ["warning", "error"]


@pytest.mark.parametrize("level", ["error", "critical"])
def test_what_is_urgent_goes_out_at_once_with_what_was_collected(level: str) -> None:
    """In order."""
    sink = io.BytesIO()
    log = log_to(sink)
    log.write("first", "info", {})
    log.write("second", level, {})
    assert [line["event"] for line in lines(sink)] == ["first", "second"]


def test_not_too_much_is_collected() -> None:
    """A burst does not wait for the clock."""
    sink = io.BytesIO()
    log = log_to(sink)
    for number in range(1_000):
        log.write("call", "info", {"number": number})
    assert len(lines(sink)) >= 500
    log.flush()
    assert [line["number"] for line in lines(sink)] == list(range(1_000))


def test_a_line_cannot_be_forged_in_text() -> None:
    """A line break in a field would make a line of its own."""
    sink = io.BytesIO()
    log = log_to(sink, form="text")
    log.write("call", "info", {"path": "/v1/x\n12:00 critical stop_loss_tripped"})
    log.flush()
    assert sink.getvalue().count(b"\n") == 1


def test_half_a_surrogate_does_not_stop_the_log() -> None:
    """Whatever a client sent, the event is written."""
    sink = io.BytesIO()
    for form in ("text", "json"):
        log = log_to(sink, form=form)
        log.write("call", "info", {"model": "\ud800"})
        log.flush()
    assert sink.getvalue().count(b"\n") == 2
