"""Which window of each spend limit is now, as far as a gateway can tell before it asks the store.

A plan names windows by the gateway's clock; the script refuses one that is not of the store's time
and says what that is. So the store's clock decides, and asking again is needed at turn-overs alone.
"""

import time
from collections.abc import Sequence
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.budget import Dimension
from gateway.core.limit_standing import LimitStanding
from gateway.core.spend_limits import SpendLimit
from gateway.core.velocity import RATED, RatePlan
from gateway.core.windows import Span, Window, window_at
from gateway.store.keys import TenantKeys

WINDOW_FIELDS = tuple(f"{dimension.value}.{letter}" for dimension in RATED for letter in "SH")
"""What `standing` takes, by its names in a window's hash."""

_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=64)
def zone_of(timezone: str) -> ZoneInfo:
    """Return an IANA time zone. Raises ZoneInfoNotFoundError."""
    return ZoneInfo(timezone)


class WindowClock:
    """The store's time as this process knows it, and the windows that hold then."""

    def __init__(self) -> None:
        self._ahead_ms = 0
        self._latest: dict[tuple[Span, str], Window] = {}

    def learn(self, now_ms: int) -> None:
        """Take note of the store's time."""
        self._ahead_ms = now_ms - time.time_ns() // 1_000_000

    def now_ms(self) -> int:
        """Return the store's time, as far as it is known."""
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def window(self, limit: SpendLimit, now_ms: int) -> Window:
        """Return a limit's window at a time."""
        key = limit.window, limit.timezone
        known = self._latest.get(key)
        if known is None or not known.holds(now_ms):
            known = self._latest[key] = window_at(limit.window, zone_of(limit.timezone), now_ms)
        return known

    def named(self, names: TenantKeys, limits: Sequence[SpendLimit], given_ms: str) -> bytes:
        """Return the windows as scripts take them (`lua/limits.lua`); b"" for no limits."""
        if not limits:
            return b""
        now_ms = int(given_ms) if given_ms else self.now_ms()
        return _encode([self._named(names, limit, now_ms) for limit in limits])

    def _named(self, names: TenantKeys, limit: SpendLimit, now_ms: int) -> list[str | int]:
        window = self.window(limit, now_ms)
        lines = [limit.hard.get(dimension, "") if limit.enforced else "" for dimension in RATED]
        told = " ".join(str(limit.line(dimension) or "-") for dimension in RATED)
        key = window_key(names, limit, window)
        return [key, window.start_ms, window.end_ms, *lines, told]

    def standing(
        self, limit: SpendLimit, values: Sequence[str | None], now_ms: int
    ) -> LimitStanding:
        """Return where a limit stands by what the store says: the values of `WINDOW_FIELDS`."""
        numbers = [int(value or 0) for value in values]
        settled: dict[Dimension, int] = dict(zip(RATED, numbers[::2], strict=True))
        held: dict[Dimension, int] = dict(zip(RATED, numbers[1::2], strict=True))
        return LimitStanding(limit, self.window(limit, now_ms), settled, held)


def window_key(names: TenantKeys, limit: SpendLimit, window: Window) -> str:
    """Return the key of a limit's totals in a window."""
    name = f"{limit.name}@{window.label}" if window.label else limit.name
    return names.window(limit.policy, limit.kind, name)


def rate_words(rate: RatePlan) -> str:
    """Return a velocity policy as `reserve` takes it."""
    lines = (str(rate.lines.get(dimension, "-")) for dimension in RATED)
    return " ".join((rate.policy, str(rate.window_ms), "R" if rate.refuses else "F", *lines))
