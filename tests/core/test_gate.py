"""The gate's line: the cumulative one from `enforce_from` on, whichever side is there."""

import pytest

from gateway.core.gate import Gate
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
