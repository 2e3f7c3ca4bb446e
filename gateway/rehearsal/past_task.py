"""A task of the past as it would stand under other rules, from call to call."""

from collections import defaultdict
from dataclasses import dataclass, field

from gateway.core.admission import Balance, Scope, ScopeKind, may_complete
from gateway.core.budget import Dimension, Lines, TaskLimits
from gateway.core.overrides import LimitsInForce, Override, OverrideKind, limits_in_force
from gateway.core.phases import WorkPhase
from gateway.core.velocity import RATED, RatePlan, RateStanding, used_in_window
from gateway.ports import TaskFacts

Amounts = dict[Dimension, int]


def _nothing() -> Amounts:
    return dict.fromkeys(Dimension, 0)


@dataclass(slots=True)
class Totals:
    """What is settled and held, and how many calls are open."""

    settled: Amounts = field(default_factory=_nothing)
    held: Amounts = field(default_factory=_nothing)
    open_calls: int = 0
    last_ms: int = 0

    def hold(self, held: Amounts, at_ms: int) -> None:
        """Begin a call."""
        self.open_calls, self.last_ms = self.open_calls + 1, at_ms
        for dimension, amount in held.items():
            self.held[dimension] += amount

    def settle(self, held: Amounts, used: Amounts, at_ms: int) -> None:
        """End a call."""
        self.open_calls, self.last_ms = self.open_calls - 1, at_ms
        for dimension, amount in held.items():
            self.held[dimension] -= amount
        for dimension, amount in used.items():
            self.settled[dimension] += amount


@dataclass(slots=True)
class _Span:
    """Velocity counts of the current span and of the one before (`store/lua/limits.lua`)."""

    number: int = -2
    current: Amounts = field(default_factory=_nothing)
    before: Amounts = field(default_factory=_nothing)

    def move_to(self, number: int) -> None:
        """Be at a span."""
        age = number - self.number
        if age:
            self.before = self.current if age == 1 else _nothing()
            self.current, self.number = _nothing(), number


@dataclass(slots=True)
class TaskThen:
    """One task. `limits` is its snapshot, None for calls without a task."""

    name: str
    facts: TaskFacts
    limits: TaskLimits | None
    state: str = "open"
    trip_dimension: Dimension | None = None
    trip_code: str = ""
    completing: bool = False
    totals: Totals = field(default_factory=Totals)
    phases: dict[WorkPhase, Totals] = field(default_factory=lambda: defaultdict(Totals))
    closed: set[WorkPhase] = field(default_factory=set)
    _overrides: list[Override] = field(default_factory=list)
    _in_force: LimitsInForce | None = None
    _spans: dict[int, _Span] = field(default_factory=lambda: defaultdict(_Span))

    def take(self, override: Override) -> None:
        """Put an override in force; a resume frees from a kill, room from a trip."""
        self._overrides.append(override)
        self._in_force = None
        if override.kind is OverrideKind.RESUME:
            self.state = "open"
        if override.kind is OverrideKind.GENERATION:
            self.completing = False
            self.closed.clear()
            self.phases[WorkPhase.REVIEW].last_ms = 0
        self._free(override.created_ms)

    def _free(self, now_ms: int) -> None:
        """End a trip whose line is not crossed any more; crossed again, it is another one."""
        if not self.scope(ScopeKind.TASK, now_ms, held_to_line=True).tripped:
            self.trip_dimension = None

    def scope(
        self, kind: ScopeKind, now_ms: int, *, held_to_line: bool, exempt: bool = False
    ) -> Scope:
        """Return it as admission sees it; one that completes is held to the runaway line."""
        force = self._limits(now_ms)
        lines = force.task if force is not None else {}
        granted = force.granted if force is not None else {}
        to_line = held_to_line and not exempt
        balances = {
            dimension: _balance(line, granted.get(dimension, 0), self.totals, dimension, to_line)
            for dimension, line in lines.items()
        }
        trip = self.trip_dimension
        return Scope(kind, self.name, balances, self.state, trip, self.trip_code, exempt)

    def phase_scope(self, phase: WorkPhase, now_ms: int) -> Scope:
        """Return a phase as admission sees it."""
        force, totals = self._limits(now_ms), self.phases[phase]
        lines = force.phases[phase] if force is not None else {}
        balances = {
            dimension: _balance(line, 0, totals, dimension, to_line=True)
            for dimension, line in lines.items()
        }
        return Scope(ScopeKind.PHASE, phase.value, balances)

    def completes(self, phase: WorkPhase | None, now_ms: int, idle_close_ms: int) -> bool:
        """Return whether it is let through to its end at a call of `phase` (SL-9)."""
        review = self.phases[WorkPhase.REVIEW]
        is_idle = review.last_ms > 0 and not review.open_calls
        over = is_idle and now_ms - review.last_ms >= idle_close_ms
        force = self._limits(now_ms)
        granted = force.granted if force is not None else {}
        lines = force.completion if force is not None else {}
        own = self.scope(ScopeKind.TASK, now_ms, held_to_line=True)
        return may_complete(
            phase,
            own,
            {dimension: line + granted.get(dimension, 0) for dimension, line in lines.items()},
            review_closed=over or WorkPhase.REVIEW in self.closed,
        )

    def working_beside(self, phase: WorkPhase | None) -> WorkPhase | None:
        """Return the first other phase that has calls in flight."""
        busy = (one for one in WorkPhase if one in self.phases and self.phases[one].open_calls > 0)
        return next((one for one in busy if one is not phase), None)

    def rate(self, plan: RatePlan, now_ms: int) -> RateStanding:
        """Return how fast it is."""
        span = self._span(plan.window_ms, now_ms)
        used = {
            dimension: used_in_window(
                span.current[dimension], span.before[dimension], now_ms, plan.window_ms
            )
            for dimension in RATED
        }
        return RateStanding(plan, used)

    def count(self, window_ms: int, now_ms: int, used: Amounts) -> None:
        """Count in its velocity."""
        span = self._span(window_ms, now_ms)
        for dimension in RATED:
            span.current[dimension] += used.get(dimension, 0)

    def _span(self, window_ms: int, now_ms: int) -> _Span:
        span = self._spans[window_ms]
        span.move_to(now_ms // window_ms)
        return span

    def _limits(self, now_ms: int) -> LimitsInForce | None:
        if self.limits is None:
            return None
        force = self._in_force
        if force is None or (force.expires_ms is not None and now_ms >= force.expires_ms):
            force = self._in_force = limits_in_force(self.limits, self._overrides, now_ms)
        return force


def _balance(line: Lines, granted: int, totals: Totals, of: Dimension, to_line: bool) -> Balance:
    cumulative, runaway = line.cumulative + granted, line.runaway + granted
    return Balance(
        line.limit,
        granted,
        cumulative if to_line else runaway,
        cumulative,
        runaway,
        totals.settled[of],
        totals.held[of],
    )
