"""The gate's line: the cumulative one from `enforce_from` on, whichever side is there."""

import pytest

from gateway.core.gate import Gate
from gateway.core.match import CallMatch
from gateway.core.phases import WorkPhase
from gateway.core.policy import StopLossPolicy


@pytest.mark.parametrize(
    ("enforce_from", "to", "start"),
    [
        (None, None, None),
        (None, "PLAN", None),
        ("VERIFY", None, "VERIFY"),
        ("VERIFY", "PLAN", "VERIFY"),
        ("VERIFY", "VERIFY", None),
        ("VERIFY", "REVIEW", None),
    ],
)
def test_where_the_line_begins(enforce_from: str | None, to: str | None, start: str | None) -> None:
    policy = StopLossPolicy(enforce_from=WorkPhase(enforce_from) if enforce_from else None)
    gate = Gate("T", WorkPhase.IMPLEMENT, WorkPhase(to) if to else None)
    assert gate.starts_at(policy) == (WorkPhase(start) if start else None)


def test_policies_look_at_a_gate_as_at_a_call() -> None:
    """By task, phase and tenant; one without a key or model is not meant where those are named."""
    gate = Gate("T-1", WorkPhase.VERIFY)
    for meant in (
        CallMatch(task=frozenset({"T-*"}), phase=frozenset({WorkPhase.VERIFY})),
        CallMatch(tenant=frozenset({"default"})),
    ):
        assert meant.matches(gate)
    for other in (
        CallMatch(phase=frozenset({WorkPhase.PLAN})),
        CallMatch(key=frozenset({"*"})),
        CallMatch(model=frozenset({"*"})),
    ):
        assert not other.matches(gate)
