"""Names of remediation tasks: one an episode, never nested, always nameable by a call."""

import pytest

from gateway.core.identity import ID_PATTERN
from gateway.core.remediation import is_remediation, remediation_task, told_apart

LONG = "T" * 128


@pytest.mark.parametrize(
    ("task", "episode", "name"),
    [
        ("T", 0, "FIX-BUDGET-BREACH-T"),
        ("T", 1, "FIX-BUDGET-BREACH-T"),
        ("T", 2, "FIX-BUDGET-BREACH-T-2"),
        ("FIX-BUDGET-BREACH-T", 1, "FIX-BUDGET-BREACH-T"),
        ("FIX-BUDGET-BREACH-T", 3, "FIX-BUDGET-BREACH-T-3"),
        ("T" * 110, 1, "FIX-BUDGET-BREACH-" + "T" * 110),
    ],
)
def test_SL6_they_are_named_once_an_episode(task: str, episode: int, name: str) -> None:
    """And never nested."""
    assert remediation_task(task, episode) == name
    assert is_remediation(name)
    assert not is_remediation("T")


def test_SL6_a_task_with_a_long_name_has_one_that_a_call_can_give() -> None:
    """Tasks and episodes that differ have names that differ."""
    names = {
        remediation_task(task, episode)
        for task in (LONG, LONG[:-1] + "U", LONG[:111])
        for episode in (1, 2, 12)
    }
    assert len(names) == 9
    assert all(ID_PATTERN.fullmatch(name) and is_remediation(name) for name in names)


def test_two_breaches_of_one_name_are_told_apart() -> None:
    first, second = remediation_task("A", 2), remediation_task("A-2", 1)
    assert first == second
    assert told_apart(first, 2) == "FIX-BUDGET-BREACH-A-2.episode-2"
    assert told_apart(second, 1) != told_apart(first, 2)
    assert ID_PATTERN.fullmatch(told_apart(remediation_task(LONG, 2), 2))
