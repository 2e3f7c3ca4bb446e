"""Export by OTLP to a collector that takes it, that is away, and that will not."""

from typing import Any

import pytest

from gateway.core.budget import BreachStatus
from gateway.telemetry import names
from gateway.telemetry.budgets import BudgetTelemetry
from gateway.telemetry.counters import Counters
from gateway.telemetry.otlp import OtlpExport, OtlpRules
from tests.telemetry.collector import collecting

CALL = {
    "tenant": "default",
    "task": "T",
    "call_id": "c1",
    "phase": "PLAN",
    "execution": 2,
    "started_ms": 1_000,
    "at_ms": 3_500,
    "upstream": "openai",
    "dialect": "openai_chat",
    "model": "gpt-5",
    "model_served": "gpt-5-2025-08-07",
    "input_tokens": 120,
    "output_tokens": 30,
    "cached_read_tokens": None,
    "status": 200,
    "code": None,
    "decision": "allow",
}


class Desk:
    """An export to some place, and what it counted and said."""

    def __init__(self, url: str, **rules: Any) -> None:
        self.counters = Counters()
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        made = OtlpRules(url, backoff_s=(0, 0, 0), **rules)
        self.export = OtlpExport(made, self.counters, self.note, "gateway-1")
        self.telemetry = BudgetTelemetry(self.counters, self.export)

    def note(self, name: str, level: str = "info", **fields: Any) -> None:
        self.events.append((name, level, fields))

    def dropped(self) -> int:
        return dict(self.counters.of(names.TELEMETRY_DROPPED.name)).get((), 0)


async def test_MET1_MET2_metrics_add_up() -> None:
    """Cumulative, with the plan's attributes; headers are sent, a task id is not."""
    async with collecting() as collector:
        desk = Desk(collector.url, headers={"x-scope": "team"})
        for tokens in (5, 7):
            desk.telemetry.record_phase_budget(
                "PLAN", "T", tokens, 9, 10, 20, BreachStatus.WITHIN, tiers=("Tiny", "low")
            )
            await desk.export.flush()
    said = {
        "phase": "PLAN",
        "complexity": "Tiny",
        "importance": "low",
        "breach_status": "within",
    }
    assert collector.metrics == {
        "autopilot.phase.tokens_used": [(said, 12)],
        "autopilot.phase.latency_ms": [(said, 20)],
    }
    assert {path for path, _ in collector.asked} == {"/v1/metrics"}
    assert {headers["x-scope"] for _, headers in collector.asked} == {"team"}


async def test_a_task_id_is_on_metrics_where_it_is_asked_for() -> None:
    async with collecting() as collector:
        desk = Desk(collector.url, include_task_id=True)
        desk.telemetry.record_task_budget("T", 5, 6, BreachStatus.WITHIN)
        await desk.export.flush()
    [(said, tokens)] = collector.metrics["autopilot.task.tokens_total"]
    assert (said["task_id"], tokens) == ("T", 5)


async def test_MET5_a_task_is_a_trace_of_phases_and_calls() -> None:
    """Spans go by the names of OpenTelemetry's conventions; the same call is the same span."""
    async with collecting() as collector:
        desk = Desk(collector.url)
        refused = {**CALL, "call_id": "c2", "status": 400, "code": "task_budget_exceeded"}
        desk.export.add_calls([CALL])
        desk.export.add_calls([refused | {"execution": None, "phase": None}])
        facts = desk.telemetry.record_phase_budget(
            "PLAN", "T", 150, 2_400, 2_500, None, BreachStatus.WITHIN
        )
        desk.export.add_phase("default", facts, (1_000, 3_500), 2)
        desk.export.add_task("default", {"task": "T", "tokens": 150}, (1_000, 9_000))
        await desk.export.flush()
        first, other = (span for span in collector.spans if span.name == "call")
        phase, said_of_phase = collector.span("phase PLAN")
        task, _ = collector.span("task")
        desk.export.add_calls([CALL])
        await desk.export.flush()
    assert len({span.trace_id for span in collector.spans}) == 1
    assert (first.parent_span_id, phase.parent_span_id) == (phase.span_id, task.span_id)
    assert (other.parent_span_id, task.parent_span_id) == (task.span_id, b"")
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (10**9, 35 * 10**8)
    said = {one.key: one.value for one in first.attributes}
    assert said["gen_ai.usage.input_tokens"].int_value == 120
    assert said["gen_ai.usage.output_tokens"].int_value == 30
    assert said["gen_ai.operation.name"].string_value == "chat"
    assert said["tollgate.task"].string_value == "T"
    assert "gen_ai.usage.cache_read.input_tokens" not in said
    assert (said_of_phase["tollgate.execution"], said_of_phase["tollgate.tokens"]) == (2, 150)
    assert (first.status.code, other.status.message) == (0, "task_budget_exceeded")
    assert collector.spans[-1].span_id == first.span_id


@pytest.mark.parametrize("answers", [[503], [429, 408], [500, 502, 504]])
async def test_EC18_three_more_tries_are_made(answers: list[int]) -> None:
    async with collecting() as collector:
        desk = Desk(collector.url)
        desk.export.add_calls([CALL])
        collector.answers = list(answers)
        await desk.export.flush()
    assert len(collector.asked) == len(answers) + 1
    assert len(collector.spans) == 1
    assert (desk.dropped(), desk.events) == (0, [])


@pytest.mark.parametrize(("status", "tries"), [(503, 4), (400, 1), (302, 1)])
async def test_EC18_then_it_is_dropped_with_one_warning(status: int, tries: int) -> None:
    """What another try cannot change is not tried again; the next outage is told again."""
    async with collecting() as collector:
        desk = Desk(collector.url)
        for _ in range(2):
            collector.answers = [status] * tries
            desk.export.add_calls([CALL])
            await desk.export.flush()
        assert (len(collector.asked), len(collector.spans)) == (2 * tries, 0)
        assert desk.dropped() == 2
        [(name, level, fields)] = desk.events
        assert (name, level, fields["signal"]) == ("telemetry_dropped", "warning", "traces")
        assert fields["error"] == f"HTTP {status}"
        desk.export.add_calls([CALL])
        await desk.export.flush()
        assert len(collector.spans) == 1
        collector.answers = [400]
        desk.export.add_calls([CALL])
        await desk.export.flush()
    assert len(desk.events) == 2


async def test_EC18_a_collector_that_is_not_there() -> None:
    """Metrics are made up for by the next export; spans are counted as lost."""
    async with collecting() as collector:
        url = collector.url
    desk = Desk(url)
    desk.telemetry.record_task_budget("T", 5, 6, BreachStatus.WITHIN)
    desk.export.add_calls([CALL, {**CALL, "call_id": "c2"}])
    await desk.export.flush()
    assert desk.dropped() == 2
    assert [name for name, _, _ in desk.events] == ["telemetry_dropped"]


async def test_spans_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first, and is counted."""
    monkeypatch.setattr("gateway.telemetry.otlp._MOST_SPANS", 2)
    async with collecting() as collector:
        desk = Desk(collector.url)
        desk.export.add_calls([{**CALL, "call_id": f"c{number}"} for number in range(5)])
        await desk.export.flush()
    assert (desk.dropped(), len(collector.spans)) == (3, 2)


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(OtlpRules("http://c", {"authorization": "Bearer s3cret"}))
