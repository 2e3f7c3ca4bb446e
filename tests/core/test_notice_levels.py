"""Notice levels: each told once, whether the total rises or the limit falls."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.notice_levels import (
    NOTICE_LEVELS_PERCENT,
    crossed_levels,
    levels_of_lower_limit,
)


@given(steps=st.lists(st.integers(0, 400), max_size=30), limit=st.integers(1, 1000))
def test_each_notice_level_is_crossed_once_however_the_total_grows(
    steps: list[int], limit: int
) -> None:
    """SL-13."""
    seen: list[int] = []
    total = 0
    for step in steps:
        seen += crossed_levels(total, total + step, limit)
        total += step
    assert seen == [level for level in NOTICE_LEVELS_PERCENT if total * 100 >= level * limit]


def test_a_level_is_crossed_when_it_is_reached() -> None:
    assert crossed_levels(0, 500, 1000) == (50,)
    assert crossed_levels(500, 799, 1000) == ()
    assert crossed_levels(499, 2000, 1000) == (50, 80, 90, 100)
    assert crossed_levels(0, 10, 0) == ()


def test_SL13_a_lower_limit_brings_a_total_to_levels() -> None:
    """40 % of 1,000 are 80 % of 500; what the higher limit was at already is not told again."""
    assert levels_of_lower_limit(400, 1000, 500) == (50, 80)
    assert levels_of_lower_limit(500, 1000, 900) == ()
    assert levels_of_lower_limit(500, 1000, 500) == (80, 90, 100)
    assert levels_of_lower_limit(500, None, 1000) == (50,)
    assert levels_of_lower_limit(10, 1000, 0) == NOTICE_LEVELS_PERCENT
