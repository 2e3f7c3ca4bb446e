"""The gate's line: the cumulative one from `enforce_from` on, whichever side is there."""

import pytest

from gateway.core.gate import gate_starts_at, mode_in_force
from gateway.core.phases import WorkPhase
from gateway.core.policy import Mode, StopLossPolicy


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
    found = gate_starts_at(policy, WorkPhase.IMPLEMENT, WorkPhase(to) if to else None)
    assert found == (WorkPhase(start) if start else None)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("switched_off", [False, True])
def test_a_kill_switch_leaves_observing(mode: Mode, switched_off: bool) -> None:
    found = mode_in_force(StopLossPolicy(mode=mode), switched_off=switched_off)
    assert found is (Mode.OBSERVE if switched_off and mode is Mode.ENFORCE else mode)
