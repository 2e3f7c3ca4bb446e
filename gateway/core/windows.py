"""Spans of time that a spend limit is for: where the one that holds now begins and ends.

Days, weeks (from Monday) and months follow the calendar of a time zone, so a day may have 23 or 25
hours. Hours follow the zone's full hours and are always sixty minutes long.
"""

from datetime import UTC, datetime, timedelta, tzinfo

from msgspec import Struct

from gateway.core.vocabulary import Vocabulary

_HOUR_S = 3_600
_WEST = timedelta(hours=12)  # no clock is further behind UTC


class Span(Vocabulary):
    """How long a window is."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    LIFETIME = "lifetime"


class Window(Struct, frozen=True):
    """One window: from `start_ms` on, before `end_ms`; 0 there means that it never ends.

    `label` tells it from others of its span, `ends` is its end for people (ISO 8601).
    """

    start_ms: int = 0
    end_ms: int = 0
    label: str = ""
    ends: str = ""

    def holds(self, now_ms: int) -> bool:
        """Return whether it is the window at this time."""
        return self.start_ms <= now_ms and (not self.end_ms or now_ms < self.end_ms)


def window_at(span: Span, zone: tzinfo, now_ms: int) -> Window:
    """Return the window that holds at `now_ms`, milliseconds since the epoch."""
    if span is Span.LIFETIME:
        return Window()
    now = datetime.fromtimestamp(now_ms // 1000, zone)
    if span is Span.HOUR:
        past_s = now.minute * 60 + now.second
        start_s = now_ms // 1000 - past_s
        label = datetime.fromtimestamp(start_s, UTC).strftime("%Y-%m-%dT%H%MZ")
        return _window(start_s, start_s + _HOUR_S, label, zone)
    midnight = datetime(now.year, now.month, now.day, tzinfo=zone)
    if span is Span.DAY:
        start, end = midnight, midnight + timedelta(days=1)
        label = f"{start:%Y-%m-%d}"
    elif span is Span.WEEK:
        start = midnight - timedelta(days=now.weekday())
        end = start + timedelta(days=7)
        label = f"{start:%G-W%V}"
    else:
        start = midnight.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
        label = f"{start:%Y-%m}"
    return _window(int(start.timestamp()), int(end.timestamp()), label, zone)


def _window(start_s: int, end_s: int, label: str, zone: tzinfo) -> Window:
    ends = datetime.fromtimestamp(end_s, zone).isoformat()
    return Window(start_s * 1000, end_s * 1000, label, ends)


def latest_end_ms(label: str) -> int:
    """Return when a window with this label is over in every time zone; 0: it never ends."""
    if not label:
        return 0
    if label.endswith("Z"):
        end = datetime.strptime(label, "%Y-%m-%dT%H%MZ").replace(tzinfo=UTC) + timedelta(hours=1)
        return int(end.timestamp()) * 1000
    if "W" in label:
        year, week = map(int, label.split("-W"))
        last = datetime.fromisocalendar(year, week, 7)
    elif label.count("-") > 1:
        last = datetime.fromisoformat(label)
    else:
        last = datetime.fromisoformat(f"{label}-01") + timedelta(days=31)
        last = last.replace(day=1) - timedelta(days=1)
    end = last.replace(tzinfo=UTC) + timedelta(days=1) + _WEST
    return int(end.timestamp()) * 1000
