"""What follows from a task's figures."""

import pytest

from gateway.core.budget import BreachStatus
from gateway.store.task_view import (
    Standing,
    worst_status,
)


@pytest.mark.parametrize(
    ("used", "reserved", "remaining", "percent", "status", "pressure"),
    [
        (0, 0, 120, 0, BreachStatus.WITHIN, 0),
        (59, 0, 61, 49, BreachStatus.WITHIN, 0),
        (60, 10, 50, 50, BreachStatus.WITHIN, 50),
        (96, 30, 0, 80, BreachStatus.WITHIN, 80),
        (120, 0, 0, 100, BreachStatus.WITHIN, 100),
        (121, 0, 0, 101, BreachStatus.WARNING, 100),
        (140, 0, 0, 117, BreachStatus.WARNING, 100),
        (141, 0, 0, 118, BreachStatus.EXCEEDED, 100),
    ],
)
def test_what_follows_from_a_standing(
    used: int, reserved: int, remaining: int, percent: int, status: BreachStatus, pressure: int
) -> None:
    """Grants count as room; what is held is not remaining; boundaries are exact (TRK-2)."""
    standing = Standing(100, 20, 140, 220, used, reserved)
    assert standing.remaining == remaining
    assert standing.percent == percent
    assert standing.status is status
    assert standing.pressure == pressure


def test_without_a_limit_nothing_follows() -> None:
    """No comparison, no percentage, no status."""
    standing = Standing(None, 0, None, None, 7, 3)
    found = {standing.allowed, standing.remaining, standing.percent, standing.status}
    assert found == {None}
    assert standing.pressure is None
    assert worst_status([standing]) is BreachStatus.WITHIN
