"""The overhead breaker: when the gateway itself is too slow for long, it steps aside (RBK-3).

Time is cut into windows. A window with enough calls is judged by the mean time that a call spent in
the gateway, without waits for provider and client; one with fewer says nothing, so that the noise
of an idle gateway cannot trip it, nor can what is quick all the same. The baseline is configured,
or the mean of the first calls.
"""

from msgspec import Struct


class BreakerRule(Struct, frozen=True):
    """When to trip. Sums and baseline are nanoseconds a call; moments are of a monotonic clock.

    A mean of up to `least_ns` is never slow. A spell of slow windows ends with a good one, or with
    `gap_ms` in which none could be judged.
    """

    limit_percent: int = 200
    sustained_ms: int = 600_000
    window_ms: int = 10_000
    least_calls: int = 200
    least_ns: int = 0
    gap_ms: int = 60_000
    learning_calls: int = 2_000
    baseline_ns: int | None = None


class OverheadBreaker:
    """Counts overhead by window, and says once when it was above the limit for too long."""

    def __init__(self, rule: BreakerRule) -> None:
        self._rule = rule
        self.baseline_ns = rule.baseline_ns
        self.tripped = False
        self._learned_calls = self._learned_ns = 0
        self._window = 0
        self._calls = self._sum_ns = 0
        self._slow_from_ms: int | None = None
        self._slow_to_ms = 0

    def add(self, now_ms: int, calls: int, sum_ns: int) -> bool:
        """Count calls that ended just now; return whether this is the moment to trip.

        True comes once; `reset` arms it again.
        """
        window = now_ms // self._rule.window_ms
        trips = False
        if window != self._window:
            trips = self._judge()
            self._window, self._calls, self._sum_ns = window, 0, 0
        if self.baseline_ns is None:
            self._learn(calls, sum_ns)
        else:
            self._calls += calls
            self._sum_ns += sum_ns
        return trips

    def reset(self) -> None:
        """Forget slow windows, keep the baseline: an operator has switched enforcing on again."""
        self.tripped, self._slow_from_ms = False, None
        self._calls = self._sum_ns = 0

    def _learn(self, calls: int, sum_ns: int) -> None:
        self._learned_calls += calls
        self._learned_ns += sum_ns
        if self._learned_calls >= self._rule.learning_calls:
            self.baseline_ns = max(1, self._learned_ns // self._learned_calls)

    def _judge(self) -> bool:
        """Judge the window that ended; return whether it completes a slow spell."""
        rule, start_ms = self._rule, self._window * self._rule.window_ms
        if self.tripped or self.baseline_ns is None or self._calls < rule.least_calls:
            return False
        limit_ns = max(rule.least_ns, self.baseline_ns * rule.limit_percent // 100)
        if self._sum_ns <= limit_ns * self._calls:
            self._slow_from_ms = None
            return False
        if self._slow_from_ms is None or start_ms - self._slow_to_ms > rule.gap_ms:
            self._slow_from_ms = start_ms
        self._slow_to_ms = start_ms + rule.window_ms
        self.tripped = self._slow_to_ms - self._slow_from_ms > rule.sustained_ms
        return self.tripped
