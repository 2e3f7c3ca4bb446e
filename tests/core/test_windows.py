"""Where windows of time begin and end, in the calendars of time zones."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gateway.core.windows import Span, Window, latest_end_ms, window_at


def ms(text: str) -> int:
    """A moment with its offset as milliseconds since the epoch."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("span", "zone", "now", "start", "end", "label"),
    [
        ("hour", "UTC", "2026-11-23T08:59:59.999+00:00", "2026-11-23T08:00+00:00",
         "2026-11-23T09:00+00:00", "2026-11-23T0800Z"),
        ("hour", "Asia/Kolkata", "2026-11-23T08:10+00:00", "2026-11-23T07:30+00:00",
         "2026-11-23T08:30+00:00", "2026-11-23T0730Z"),
        ("day", "UTC", "2026-11-23T00:00+00:00", "2026-11-23T00:00+00:00",
         "2026-11-24T00:00+00:00", "2026-11-23"),
        ("day", "Europe/Berlin", "2026-11-23T23:30+00:00", "2026-11-24T00:00+01:00",
         "2026-11-25T00:00+01:00", "2026-11-24"),
        ("day", "America/New_York", "2026-11-23T04:59:59+00:00", "2026-11-22T00:00-05:00",
         "2026-11-23T00:00-05:00", "2026-11-22"),
        # the clocks go back: the day has 25 hours; forward: 23
        ("day", "Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00",
         "2026-10-26T00:00+01:00", "2026-10-25"),
        ("day", "Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00",
         "2026-03-30T00:00+02:00", "2026-03-29"),
        # there is no midnight: the day begins at one o'clock
        ("day", "Africa/Cairo", "2026-04-24T12:00+03:00", "2026-04-24T01:00+03:00",
         "2026-04-25T00:00+03:00", "2026-04-24"),
        # midnight comes twice: the day begins at the first
        ("day", "America/Havana", "2026-11-01T00:30-05:00", "2026-11-01T00:00-04:00",
         "2026-11-02T00:00-05:00", "2026-11-01"),
        ("week", "UTC", "2026-11-22T23:59:59+00:00", "2026-11-16T00:00+00:00",
         "2026-11-23T00:00+00:00", "2026-W47"),
        ("week", "UTC", "2027-01-01T00:00+00:00", "2026-12-28T00:00+00:00",
         "2027-01-04T00:00+00:00", "2026-W53"),
        ("month", "Europe/Berlin", "2026-12-31T23:00+00:00", "2027-01-01T00:00+01:00",
         "2027-02-01T00:00+01:00", "2027-01"),
        ("month", "UTC", "2028-02-29T12:00+00:00", "2028-02-01T00:00+00:00",
         "2028-03-01T00:00+00:00", "2028-02"),
    ],
)  # fmt: skip
def test_a_window_is_of_the_zone_s_calendar(
    span: str, zone: str, now: str, start: str, end: str, label: str
) -> None:
    window = window_at(Span(span), ZoneInfo(zone), ms(now))
    assert (window.start_ms, window.end_ms) == (ms(start), ms(end))
    assert window.label == label
    assert datetime.fromisoformat(window.ends) == datetime.fromisoformat(end)


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    zone = ZoneInfo("Europe/Berlin")
    first = window_at(Span.HOUR, zone, ms("2026-10-25T02:30+02:00"))
    second = window_at(Span.HOUR, zone, ms("2026-10-25T02:30+01:00"))
    assert first.end_ms == second.start_ms
    assert first.label != second.label


def test_a_window_holds_up_to_the_instant_of_its_turn() -> None:
    window = window_at(Span.DAY, ZoneInfo("Asia/Tokyo"), ms("2026-11-23T12:00+09:00"))
    assert window.holds(window.start_ms)
    assert window.holds(window.end_ms - 1)
    assert not window.holds(window.end_ms)
    assert not window.holds(window.start_ms - 1)


def test_a_lifetime_never_turns_over() -> None:
    window = window_at(Span.LIFETIME, UTC, 123)
    assert window == Window()
    assert window.holds(10**15)


@pytest.mark.parametrize("span", [Span.HOUR, Span.DAY, Span.WEEK, Span.MONTH])
@pytest.mark.parametrize(
    "zone", ["UTC", "America/St_Johns", "Australia/Sydney", "America/Santiago"]
)
def test_windows_follow_each_other_without_a_gap(span: Span, zone: str) -> None:
    """Through a year with its changes of the clocks."""
    tz, steps = ZoneInfo(zone), {Span.HOUR: 400, Span.DAY: 400}.get(span, 14)
    now = ms("2026-03-20T00:00+00:00")
    window = window_at(span, tz, now)
    for _ in range(steps):
        following = window_at(span, tz, window.end_ms)
        assert following.start_ms == window.end_ms
        assert following.label != window.label
        assert window_at(span, tz, window.end_ms - 1) == window
        window = following
    assert timedelta(milliseconds=window.start_ms - now) > timedelta(days=10)


@pytest.mark.parametrize("span", [span for span in Span if span is not Span.LIFETIME])
@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT+12", "Etc/GMT-14", "Europe/Berlin"])
@pytest.mark.parametrize("day", ["2026-02-28", "2026-10-25", "2026-12-31", "2027-01-01"])
def test_by_its_label_a_window_is_over_nowhere_too_early(span: Span, zone: str, day: str) -> None:
    """And at most 26 hours late, which is how far apart clocks are."""
    now_ms = int(datetime.fromisoformat(f"{day}T23:30:00+00:00").timestamp()) * 1000
    window = window_at(span, ZoneInfo(zone), now_ms)
    late_ms = latest_end_ms(window.label) - window.end_ms
    assert 0 <= late_ms <= 26 * 3_600_000
    assert late_ms == 0 or span is not Span.HOUR


def test_a_window_for_good_has_no_label() -> None:
    assert latest_end_ms(Window().label) == 0
