"""What a finished call becomes: counts by closed labels, and one log line."""

import io
import json
from typing import Any

import msgspec
import pytest

from gateway.core.admission import ScopeKind
from gateway.core.budget import Dimension
from gateway.core.decision import Breach
from gateway.core.usage import Usage
from gateway.ports import CallRecord
from gateway.telemetry import names
from gateway.telemetry.counters import Counters
from gateway.telemetry.event_log import EventLog
from gateway.telemetry.recorder import CountingRecorder

RECORD = CallRecord(
    call_id="c1",
    tenant="default",
    key="-",
    task="T",
    phase="PLAN",
    complexity="Medium",
    importance="high",
    method="POST",
    path="/v1/chat/completions",
    upstream="openai",
    dialect="openai_chat",
    model="m" * 300,
    stream=True,
    status=200,
    outcome="flag",
    code="",
    would_refuse=True,
    breaches=(Breach(ScopeKind.TASK, "T", Dimension.TOKENS, 3, 2, 2),),
    usage=Usage(input_total=100, cached_read=30, cache_write=10, output_total=7, reasoning=2),
    source="provider",
    tokens=107,
    nano_usd=1_500,
    held_tokens=2_000,
    latency_ms=12.34,
    first_byte_ms=5.67,
    client_left=True,
    store_failed=False,
)


class Told:
    """A recorder, what it counted and what it logged."""

    def __init__(self, *, log_calls: bool = True) -> None:
        self.counters = Counters()
        self._sink = io.BytesIO()
        self._log = EventLog(self._sink, lambda: 0.0, form="json", level="info", source="t")
        self.recorder = CountingRecorder(self.counters, self._log, log_calls=log_calls)

    def lines(self) -> list[dict[str, Any]]:
        self._log.flush()
        return [json.loads(line) for line in self._sink.getvalue().splitlines()]

    def counted(self, metric: names.Metric) -> dict[tuple[str, ...], int]:
        return dict(self.counters.of(metric.name))


def changed(**fields: Any) -> CallRecord:
    return msgspec.structs.replace(RECORD, **fields)


def test_a_call_is_counted() -> None:
    """Once in each metric that speaks of it; tokens by bucket, none twice."""
    told = Told()
    told.recorder.call(RECORD)
    assert told.counted(names.CALLS) == {("flag", "", "openai_chat", "openai", "2xx", "PLAN"): 1}
    assert told.counted(names.TOKENS) == {
        ("input", "provider", "PLAN"): 60,
        ("cached_read", "provider", "PLAN"): 30,
        ("cache_write", "provider", "PLAN"): 10,
        ("output", "provider", "PLAN"): 7,
    }
    assert told.counted(names.BUDGET_TOKENS) == {("PLAN",): 107}
    assert told.counted(names.COST) == {("PLAN",): 1_500}
    assert told.counted(names.USAGE_SOURCE) == {("provider",): 1}
    assert told.counted(names.WOULD_REFUSE) == {("PLAN", "Medium", "high"): 1}
    assert told.counted(names.BREACHES) == {("task", "tokens", "PLAN"): 1}
    assert told.counted(names.CLIENT_LEFT) == {(): 1}
    assert told.counted(names.UNPRICED) == {}


def test_a_call_without_a_price_or_usage() -> None:
    """An unknown price is counted as such; a bucket of nothing makes no series."""
    told = Told()
    told.recorder.call(changed(nano_usd=None, usage=Usage(output_total=1), status=0))
    assert told.counted(names.UNPRICED) == {(): 1}
    assert told.counted(names.COST) == {}
    assert list(told.counted(names.TOKENS)) == [("output", "provider", "PLAN")]
    assert next(iter(told.counted(names.CALLS)))[4] == "none"
    told = Told()
    told.recorder.call(changed(source="none", client_left=False, would_refuse=False, breaches=()))
    assert told.counted(names.USAGE_SOURCE) == {}
    assert told.counted(names.CLIENT_LEFT) == {}


def test_a_call_is_one_log_line() -> None:
    """An allow-list of fields."""
    told = Told()
    told.recorder.call(RECORD)
    (line,) = told.lines()
    assert line["event"] == "call"
    assert (line["task"], line["tokens"], line["usage"]) == ("T", 107, "provider")
    assert (line["ms"], line["first_byte_ms"]) == (12.3, 5.7)
    assert len(line["model"]) == 256


@pytest.mark.parametrize("log_calls", [True, False])
def test_events_are_counted_and_logged(log_calls: bool) -> None:
    """Calls are logged only if that is wanted, events always."""
    told = Told(log_calls=log_calls)
    told.recorder.call(RECORD)
    told.recorder.event("stop_loss_tripped", "critical", task="T")
    assert told.counted(names.EVENTS) == {("stop_loss_tripped", "critical"): 1}
    found = [line["event"] for line in told.lines()]
    assert found == (["call"] if log_calls else []) + ["stop_loss_tripped"]


def test_MET4_SL13_notice_levels_are_counted() -> None:
    """By percent alone: alerts at 80 % need no task id."""
    counters = Counters()
    log = EventLog(io.BytesIO(), lambda: 0.0, form="json", level="info", source="t")
    recorder = CountingRecorder(counters, log, log_calls=False)
    for task, percent in (("A", 50), ("A", 80), ("B", 80)):
        recorder.event("budget_notice", task=task, percent=percent)
    recorder.event("store_failed", "error", percent=80)
    assert dict(counters.of(names.BUDGET_NOTICES.name)) == {("50",): 1, ("80",): 2}
