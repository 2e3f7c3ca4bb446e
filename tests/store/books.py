"""What the store must come to: books kept in plain Python, on the rules and arithmetic of the core.

No total is ever added to or taken from. Each is the sum over all calls of what they hold or were
charged, so that nothing can be lost, kept or counted twice here. A call is open, charged or given
back, and the first end that it comes to is its end; only an expiry is corrected by what comes late.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gateway.core.acts import TaskState, Verb, state_after
from gateway.core.admission import Admission, Balance, Scope, ScopeKind, Verdict, admit
from gateway.core.budget import Dimension, Lines, TaskLimits
from gateway.core.overrides import LimitsInForce, Override, OverrideKind, limits_in_force
from gateway.core.phases import WorkPhase
from gateway.core.shaping import stop_code
from gateway.ports import ReservePlan

LEASE_MS = 30_000
TRIP_CODES = ("task_budget_exceeded", "runaway_task")

Amounts = dict[Dimension, int]
Place = tuple[str, WorkPhase | None]  # a task, or one of its phases


def amounts(tokens: int, nano_usd: int) -> Amounts:
    """Return what one call holds or is charged."""
    return {Dimension.TOKENS: tokens, Dimension.NANO_USD: nano_usd, Dimension.CALLS: 1}


class State(Enum):
    """How far a call has come."""

    UNKNOWN = "unknown"
    HELD = "held"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


@dataclass(eq=False)
class Call:
    """One call: what it holds while it is open, and what it was charged."""

    plan: ReservePlan
    state: State = State.UNKNOWN
    phase: WorkPhase | None = None
    held: Amounts = field(default_factory=dict)
    charged: Amounts = field(default_factory=dict)
    lease_ms: int = 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its task, and that task's ancestors."""
        return (self.plan.task, *self.plan.facts.parents)

    @property
    def is_over(self) -> bool:
        """Whether no command changes anything any more."""
        return self.state in (State.SETTLED, State.RELEASED)

    def counts_in(self, place: Place) -> bool:
        """Whether a total of `place` has this call in it."""
        task, phase = place
        if phase is None:
            return task in self.tasks
        return (self.plan.task, self.phase) == place


@dataclass
class Task:
    """What is known of a task. There are limits once a call of its own has created it."""

    snapshot: TaskLimits
    in_force: LimitsInForce | None = None
    overrides: list[Override] = field(default_factory=list)
    phase: WorkPhase | None = None
    trip: Dimension | None = None
    trip_code: str = ""
    episode: int = 0
    refused: int = 0
    state: TaskState = TaskState.OPEN
    before_kill: TaskState = TaskState.OPEN


@dataclass(frozen=True)
class Short:
    """A grant that is too small, by how much."""

    dimension: Dimension
    missing: int


class Books:
    """All tasks and calls of one tenant. `now_ms` is the time that scripts go by."""

    def __init__(
        self, parents: Mapping[str, tuple[str, ...]], snapshot: TaskLimits, now_ms: int
    ) -> None:
        self.now_ms = now_ms
        self._parents = parents
        self.tasks = {name: Task(snapshot) for name in parents}
        self.calls: list[Call] = []
        self.latency_ms: Counter[Place] = Counter()
        self.limits_lapsed = 0

    # Totals -------------------------------------------------------------------------------------

    def settled(self, place: Place, dimension: Dimension) -> int:
        """Return S, with the latency of calls that are open now."""
        if dimension is Dimension.LATENCY_MS:
            return self.latency_ms[place]
        return sum(c.charged.get(dimension, 0) for c in self.calls if c.counts_in(place))

    def held(self, place: Place, dimension: Dimension) -> int:
        """Return H."""
        return sum(call.held.get(dimension, 0) for call in self.open_calls(place))

    def open_calls(self, place: Place) -> list[Call]:
        """Return the calls in flight."""
        return [c for c in self.calls if c.state is State.HELD and c.counts_in(place)]

    def places(self) -> list[Place]:
        """Return every task and every phase that a call was ever in."""
        phases = {(c.plan.task, c.phase) for c in self.calls if c.phase}
        return [*((name, None) for name in self.tasks), *phases]

    def scopes(
        self, task: str, phase: WorkPhase | None, start: WorkPhase | None = None
    ) -> list[Scope]:
        """Return what a reserve compares: the task, its ancestors, the phase.

        Before the phase `start`, a task's line is the runaway line.
        """
        runaway_only = phase is not None and start is not None and phase.order < start.order
        scopes = [
            self._scope(ScopeKind.PARENT if at else ScopeKind.TASK, name, runaway_only)
            for at, name in enumerate((task, *self._parents[task]))
        ]
        in_force = self.tasks[task].in_force
        if phase is not None and in_force is not None:
            balances = {
                dimension: self._balance((task, phase), dimension, lines, 0)
                for dimension, lines in in_force.phases[phase].items()
            }
            scopes.append(Scope(ScopeKind.PHASE, phase.value, balances))
        return scopes

    def _scope(self, kind: ScopeKind, name: str, runaway_only: bool) -> Scope:
        task, balances = self.tasks[name], {}
        for dimension, lines in task.in_force.task.items() if task.in_force else ():
            granted = task.in_force.granted.get(dimension, 0) if task.in_force else 0
            balances[dimension] = self._balance(
                (name, None), dimension, lines, granted, runaway_only=runaway_only
            )
        return Scope(kind, name, balances, task.state.value, task.trip, task.trip_code)

    def _balance(
        self,
        place: Place,
        dimension: Dimension,
        lines: Lines,
        granted: int,
        *,
        runaway_only: bool = False,
    ) -> Balance:
        cumulative, runaway = lines.cumulative + granted, lines.runaway + granted
        return Balance(
            limit=lines.limit,
            granted=granted,
            line=runaway if runaway_only else cumulative,
            cumulative=cumulative,
            runaway=runaway,
            settled=self.settled(place, dimension),
            held=self.held(place, dimension),
        )

    # What calls do ------------------------------------------------------------------------------

    def tick(self, ms: int) -> None:
        """Let time pass; it counts wherever a call is open."""
        for place in self.places():
            if self.open_calls(place):
                self.latency_ms[place] += ms
        self.now_ms += ms

    def reserve(self, call: Call) -> tuple[Admission, list[Scope]] | None:
        """Return the verdict and what it is about, None for a call that was seen before."""
        if call.state is not State.UNKNOWN:
            return None
        plan, task = call.plan, self._created(call.plan.task)
        for name in call.tasks:
            self._renew_if_lapsed(self.tasks[name], name)
        phase = plan.phase or task.phase
        scopes = self.scopes(plan.task, phase, plan.enforce_from)
        answer = admit(scopes, plan.effects, plan.kind, plan.need)
        if answer.verdict in (Verdict.REFUSED, Verdict.SHORT):
            task.refused += 1
        if answer.verdict is Verdict.REFUSED:
            self._trip(answer)
        if answer.verdict is Verdict.HELD:
            need = plan.need
            call.state, call.phase, call.lease_ms = State.HELD, phase, self.now_ms + LEASE_MS
            call.held = amounts(
                need.input_high + need.output_tokens(answer.output),
                need.input_nano_usd + answer.output * need.unit_nano_usd,
            )
            task.phase = phase
            if task.state is TaskState.COMPLETED:
                task.state = TaskState.REOPENED
        return answer, scopes

    def heartbeat(self, call: Call, seen: Amounts) -> str:
        """Renew the lease of an open call, which may have outgrown its hold; return why it is over."""
        if call.state is not State.HELD:
            return ""
        call.lease_ms = self.now_ms + LEASE_MS
        call.held = {d: max(held, seen[d]) for d, held in call.held.items()}
        scopes = self.scopes(call.plan.task, call.phase, call.plan.enforce_from)
        tokens, nano_usd = seen[Dimension.TOKENS], seen[Dimension.NANO_USD]
        return stop_code(scopes, call.plan.effects, tokens, nano_usd)

    def settle(self, call: Call, used: Amounts) -> None:
        """Charge what was used; an unknown call counts where its plan says."""
        if call.is_over:
            return
        if call.state is State.UNKNOWN:
            self._created(call.plan.task)
            call.phase = call.plan.phase
        self._close(call, State.SETTLED, used)

    def release(self, call: Call) -> None:
        """Give everything back."""
        if not call.is_over:
            self._close(call, State.RELEASED, {})

    def expire(self, now_ms: int) -> list[str]:
        """Charge what calls hold whose lease is over; return their ids."""
        due = [c for c in self.calls if c.state is State.HELD and c.lease_ms <= now_ms]
        for call in due:
            self._close(call, State.EXPIRED, call.held)
        return [call.plan.call_id for call in due]

    def _close(self, call: Call, state: State, charged: Amounts) -> None:
        corrected = any(charged.get(d, 0) < was for d, was in call.charged.items())
        call.state, call.held, call.charged = state, {}, charged
        if corrected:
            for name in call.tasks:
                self._end_trip_if_freed(name)

    # Limits -------------------------------------------------------------------------------------

    def override(self, name: str, override: Override) -> Short | None:
        """Put an override in force, unless it is a grant that does not reach."""
        task = self.tasks[name]
        overrides = [*task.overrides, override]
        in_force = limits_in_force(task.snapshot, overrides, self.now_ms)
        granted = override.amounts.items() if override.kind is OverrideKind.GRANT else ()
        for dimension, amount in granted:
            if amount and dimension in in_force.task:
                line = in_force.task[dimension].cumulative + in_force.granted.get(dimension, 0)
                missing = self.settled((name, None), dimension) - line
                if missing > 0:
                    return Short(dimension, missing)
        task.overrides, task.in_force = overrides, in_force
        if override.kind is OverrideKind.RESUME:
            task.trip, task.trip_code = None, ""
        self._end_trip_if_freed(name)
        return None

    def steer(self, name: str, verb: Verb) -> TaskState | None:
        """Change a task's state; return it, None if that cannot be."""
        task = self.tasks[name]
        after = state_after(verb, task.state, task.before_kill)
        if after is not None:
            if verb is Verb.KILL and task.state is not TaskState.KILLED:
                task.before_kill = task.state
            task.state = after
        return after

    def _created(self, name: str) -> Task:
        task = self.tasks[name]
        if task.in_force is None:
            task.in_force = limits_in_force(task.snapshot, (), self.now_ms)
        return task

    def _renew_if_lapsed(self, task: Task, name: str) -> None:
        expires_ms = task.in_force.expires_ms if task.in_force else None
        if expires_ms is not None and self.now_ms >= expires_ms:
            self.limits_lapsed += 1
            task.in_force = limits_in_force(task.snapshot, task.overrides, self.now_ms)
            self._end_trip_if_freed(name)

    def _trip(self, answer: Admission) -> None:
        scope = answer.scope
        if answer.code not in TRIP_CODES or scope is None or scope.kind is ScopeKind.PHASE:
            return
        task = self.tasks[scope.name]
        if task.trip is None:
            task.trip, task.trip_code = answer.dimension, answer.code
            task.episode += 1

    def _end_trip_if_freed(self, name: str) -> None:
        task = self.tasks[name]
        if task.trip is None or task.in_force is None:
            return
        line = task.in_force.task[task.trip].cumulative + task.in_force.granted.get(task.trip, 0)
        if self.settled((name, None), task.trip) <= line:
            task.trip, task.trip_code = None, ""
