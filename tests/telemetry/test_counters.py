"""Plain integers that travel: counted in workers, added up in the supervisor."""

import pytest

from gateway.telemetry import names
from gateway.telemetry.counters import Counters


def test_counts_add_up_by_labels() -> None:
    """A series for each set of labels."""
    counters = Counters()
    counters.add(names.BUDGET_TOKENS, ("PLAN",), 5)
    counters.add(names.BUDGET_TOKENS, ("PLAN",), 7)
    counters.add(names.BUDGET_TOKENS, ("THINK",))
    counters.add(names.UNPRICED)
    assert dict(counters.of(names.BUDGET_TOKENS.name)) == {("PLAN",): 12, ("THINK",): 1}
    assert list(counters.of(names.UNPRICED.name)) == [((), 1)]
    assert list(counters.of("nothing")) == []


def test_taking_hands_over_and_starts_from_zero() -> None:
    """What was handed over once is never handed over again."""
    worker, supervisor = Counters(), Counters()
    for amount in (2, 3):
        worker.add(names.COST, ("PLAN",), amount)
        supervisor.merge(worker.take())
    assert worker.take() == []
    supervisor.merge([[names.COST.name, ["PLAN"], 1]])  # as lists: so it comes out of JSON
    assert dict(supervisor.of(names.COST.name)) == {("PLAN",): 6}


@pytest.mark.parametrize(
    ("value_ms", "bucket"),
    [(0, "5"), (5, "5"), (5.1, "10"), (299_999.9, "300000"), (300_000.1, "+Inf")],
)
def test_a_duration_falls_into_one_bucket(value_ms: float, bucket: str) -> None:
    """An upper bound belongs to its bucket."""
    counters = Counters()
    counters.observe_ms(names.CALL_MS, ("openai_chat",), value_ms)
    counters.observe_ms(names.CALL_MS, ("openai_chat",), value_ms)
    found = {name: amount for name, _, amount in counters.take()}
    assert found == {
        f"tollgate_call_duration_ms:{bucket}": 2,
        "tollgate_call_duration_ms:sum": 2 * round(value_ms),
        "tollgate_call_duration_ms:count": 2,
    }


def test_names_are_unique_and_say_what_they_count() -> None:
    """Prometheus: counters end in _total, and every metric has a help text."""
    found = [metric.name for metric in (*names.COUNTERS, names.CALL_MS)]
    assert len(set(found)) == len(found)
    assert all(metric.name.endswith("_total") and metric.help for metric in names.COUNTERS)


def test_no_task_is_ever_a_label() -> None:
    """A client could mint series without end."""
    labels = {label for metric in (*names.COUNTERS, names.CALL_MS) for label in metric.labels}
    assert not labels & {"task", "task_id", "model", "path", "key"}
