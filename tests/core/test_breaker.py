"""RBK-3 in virtual time: too slow for too long trips once; noise, silence and short spells do not."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.breaker import BreakerRule, OverheadBreaker

RULE = BreakerRule(baseline_ns=100_000)
WINDOW_MS, CALLS = RULE.window_ms, RULE.least_calls
SLOW, FAST = 200_001, 200_000


def run(
    breaker: OverheadBreaker, means_ns: list[int], calls: int = CALLS, start: int = 0
) -> list[int]:
    """Feed one mean a window and close the last one; return the windows at whose end it tripped."""
    fed = [
        (number, breaker.add((start + number) * WINDOW_MS, calls, mean * calls))
        for number, mean in enumerate(means_ns)
    ]
    fed.append((len(means_ns), breaker.add((start + len(means_ns)) * WINDOW_MS, 0, 0)))
    return [number for number, trips in fed if trips]


def test_RBK3_above_200_percent_for_more_than_10_minutes_trips_once() -> None:
    breaker = OverheadBreaker(RULE)
    assert run(breaker, [SLOW] * 60) == []
    assert run(OverheadBreaker(RULE), [SLOW] * 200) == [61]


def test_RBK3_at_200_percent_it_does_not() -> None:
    assert run(OverheadBreaker(RULE), [FAST] * 200) == []


def test_RBK3_one_good_window_begins_anew() -> None:
    assert run(OverheadBreaker(RULE), [SLOW] * 60 + [FAST] + [SLOW] * 60) == []


def test_RBK3_few_calls_say_nothing() -> None:
    assert run(OverheadBreaker(RULE), [SLOW * 50] * 500, calls=CALLS - 1) == []


def test_RBK3_silence_does_not_count_as_slow() -> None:
    breaker = OverheadBreaker(RULE)
    assert run(breaker, [SLOW]) == []
    assert run(breaker, [SLOW] * 2, start=1_000) == []


def test_RBK3_slow_windows_with_gaps_between_them_are_no_spell() -> None:
    """Three in more than ten minutes are not ten minutes."""
    breaker = OverheadBreaker(RULE)
    for start in range(0, 600, 40):
        assert run(breaker, [SLOW], start=start) == []
    gap = RULE.gap_ms // WINDOW_MS
    trips = [run(breaker, [SLOW], start=1_000 + number * (gap + 1)) for number in range(11)]
    assert [found for found in trips if found] == [[1]]


def test_RBK3_what_is_quick_is_never_slow() -> None:
    """Ten times a small baseline is still small."""
    rule = BreakerRule(baseline_ns=100_000, least_ns=1_000_000)
    assert run(OverheadBreaker(rule), [1_000_000] * 100) == []
    assert run(OverheadBreaker(rule), [1_000_001] * 100) == [61]


def test_RBK3_the_baseline_is_of_the_first_calls_and_stays() -> None:
    breaker = OverheadBreaker(BreakerRule(learning_calls=2 * CALLS))
    run(breaker, [100_000, 100_000])
    assert breaker.baseline_ns == 100_000
    assert run(breaker, [SLOW] * 62, start=10) == [61]
    assert breaker.baseline_ns == 100_000


def test_RBK3_after_a_reset_it_needs_the_whole_time_again() -> None:
    breaker = OverheadBreaker(RULE)
    assert run(breaker, [SLOW] * 61) == [61]
    breaker.reset()
    assert run(breaker, [SLOW] * 60, start=100) == []
    assert run(breaker, [SLOW] * 2, start=160) == [1]


@given(st.lists(st.sampled_from((SLOW, FAST)), max_size=200))
def test_RBK3_it_trips_exactly_at_the_first_61_slow_windows_in_a_row(means_ns: list[int]) -> None:
    streak, expected = 0, []
    for number, mean in enumerate(means_ns):
        streak = streak + 1 if mean == SLOW else 0
        if streak == 61 and not expected:
            expected = [number + 1]
    assert run(OverheadBreaker(RULE), means_ns) == expected
