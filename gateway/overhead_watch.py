"""The overhead breaker at work: what workers measured goes in, the switch of enforcement falls."""

from collections.abc import Callable, Iterable

from gateway.core.acts import Act
from gateway.core.breaker import BreakerRule, OverheadBreaker
from gateway.core.errors import StoreError
from gateway.ports import Recorder
from gateway.store.connection import StoreConnection
from gateway.store.enforcement import read_switch, switch_enforcement
from gateway.store.keys import TenantKeys
from gateway.telemetry import names
from gateway.telemetry.counters import Counters

_NS_PER_MS = 1_000_000


class OverheadWatch:
    """Feeds the rule with all workers' counts, once a second; throws the switch when it trips."""

    def __init__(
        self,
        rule: BreakerRule,
        counters: Counters,
        connection: StoreConnection,
        tenant: TenantKeys,
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._breaker = OverheadBreaker(rule)
        self._rule = rule
        self._counters = counters
        self._connection = connection
        self._tenant = tenant
        self._recorder = recorder
        self._clock = clock
        self._calls = self._sum_ns = 0
        self._was_off = self._is_due = False

    async def look(self, *, switched_off: bool) -> None:
        """Take what was counted since the last look; `switched_off` is how the switch stands.

        A trip that the store does not take is tried again with the next look. Raises StoreError.
        """
        calls = _total(self._counters.of(names.OVERHEAD_CALLS.name))
        sum_ns = _total(self._counters.of(names.OVERHEAD_NS.name))
        new_calls, new_ns = calls - self._calls, sum_ns - self._sum_ns
        self._calls, self._sum_ns = calls, sum_ns
        if self._was_off and not switched_off:
            self._breaker.reset()
        self._was_off = switched_off
        if self._breaker.add(int(self._clock() * 1000), new_calls, new_ns):
            self._is_due = True
        if self._is_due and not switched_off:
            await self._trip()
        self._is_due = False

    async def _trip(self) -> None:
        baseline_ms = (self._breaker.baseline_ns or 0) / _NS_PER_MS
        reason = (
            f"The gateway's own time per call was above {self._rule.limit_percent}% of its "
            f"baseline of {baseline_ms:.2f} ms for {self._rule.sustained_ms // 60_000} minutes."
        )
        act = Act("enforcement.off", "breaker", reason)
        try:
            if await read_switch(self._connection, self._tenant):
                return  # somebody was quicker, and has a reason of their own
            await switch_enforcement(self._connection, self._tenant, act, enabled=False)
        except StoreError:
            self._recorder.event("overhead_breaker_failed", "critical", reason=reason)
            raise
        self._recorder.event(
            "overhead_breaker_tripped",
            "critical",
            reason=reason,
            remedy="find what slows the gateway down (CPU, store), then switch it on again: "
            "POST /admin/v1/enforcement",
        )


def _total(counted: Iterable[tuple[tuple[str, ...], int]]) -> int:
    return sum(amount for _, amount in counted)
