"""Other rules over what happened: what they would have decided, call by call (GW-17, PM1).

Each call is planned and decided by the code of the data path, on totals that follow from the calls
that these rules let through: what they refuse uses nothing. Calls begin and end in the order of the
store's numbers. What the ledger does not know is left out, and `LEFT_OUT` says so.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from zoneinfo import ZoneInfo

from gateway.core.admission import ScopeKind, Verdict, is_held_to_line
from gateway.core.budget import LAST_PHASES, Dimension
from gateway.core.configuration import DataPlane, Rules
from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.estimate import LearnedOutput
from gateway.core.keys import GatewayKey
from gateway.core.limit_standing import LimitStanding
from gateway.core.phases import WorkPhase
from gateway.core.policy import PolicySet
from gateway.core.spend_limits import SpendLimit
from gateway.core.velocity import RATED
from gateway.core.windows import window_at
from gateway.ledger.past import Past, PastAct, PastCall
from gateway.planner import Plan, Planner
from gateway.rehearsal.answer import Standing, answer
from gateway.rehearsal.past_task import Amounts, TaskThen, Totals
from gateway.rehearsal.trial import CallSaid, Tried, try_call

LEFT_OUT = ("loop", "grace_call", "output_clamp", "model_downgrade", "mid_stream_stop")
_LINE_CODES = ("task_budget_exceeded", "runaway_task")
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Group:
    """What calls are counted by. Words; '-' where there is none."""

    policy: str
    complexity: str
    importance: str
    phase: str
    decision: str
    would_refuse: bool
    code: str


@dataclass(slots=True)
class Sum:
    """How many calls, and what they used when they happened."""

    calls: int = 0
    tokens: int = 0
    nano_usd: int = 0

    def add(self, call: PastCall) -> None:
        """Count a call."""
        self.calls += 1
        self.tokens += call.tokens
        self.nano_usd += call.nano_usd


@dataclass(frozen=True, slots=True)
class Stop:
    """The first refusal of a task, and what it had used by then."""

    task: str
    at_ms: int
    code: str
    phase: str
    tokens: int


@dataclass(slots=True)
class Backtest:
    """What came of it. `then_now` counts calls by the decision then and under these rules."""

    groups: dict[Group, Sum] = field(default_factory=lambda: defaultdict(Sum))
    then_now: Counter[tuple[str, str]] = field(default_factory=Counter)
    stops: dict[str, Stop] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    first_ms: int | None = None
    last_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """Where tasks and keys of the past come from; `latency_of` is a call's, by ancestor."""

    task_of: Callable[[str], TaskThen]
    key_of: Callable[[str], GatewayKey]
    latency_of: Callable[[str], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class _Open:
    """A call that was let through, until it ends."""

    call: PastCall
    plan: Plan
    held: Amounts
    windows: tuple[tuple[str, ...], ...]


class Replay:
    """Plays one history. `phase_idle_close_ms` is the setting of that name."""

    def __init__(
        self, plane: DataPlane, rules: Rules, sources: Sources, phase_idle_close_ms: int = 60_000
    ) -> None:
        policies, left_out = _playable(rules.policies)
        self.result = Backtest(left_out=left_out)
        self._planner = Planner(plane, replace(rules, policies=policies), LearnedOutput())
        self._sources = sources
        self._idle_close_ms = phase_idle_close_ms
        self._tenant = plane.tenant
        self._tasks: dict[str, TaskThen] = {}
        self._keys: dict[str, GatewayKey] = {}
        self._windows: dict[tuple[str, ...], Totals] = defaultdict(Totals)
        self._open: list[tuple[int, str, _Open]] = []

    async def play(self, events: Iterable[Past]) -> Backtest:
        """Return what these rules make of it."""
        for event in events:
            while self._open and self._open[0][0] < event.begins:
                self._end(heapq.heappop(self._open)[2])
            if isinstance(event, PastAct):
                self._act(event)
            else:
                await self._begin(event)
        return self.result

    # Acts ---------------------------------------------------------------------------------------

    def _act(self, act: PastAct) -> None:
        task = self._task(act.task)
        if act.override is not None:
            task.take(act.override)
        elif act.verb == "task.kill":
            task.state = "killed"
        elif act.verb == "task.resume":
            task.state = "open"
        elif act.verb == "phase.end" and act.phase is not None:
            task.closed.add(WorkPhase(act.phase))

    # Calls --------------------------------------------------------------------------------------

    async def _begin(self, call: PastCall) -> None:
        task = self._task(call.task)
        phase = WorkPhase(call.phase) if call.phase else None

        async def ask(plan: Plan) -> Receipt:
            return answer(plan.reserve, self._standing(plan, call, task, phase), call.started_ms)

        tried = await try_call(self._said(call), task.facts, self._planner, ask)
        self._count(call, task, tried)
        plan, receipt = tried.plan, tried.receipt
        if plan is None or receipt is None:
            return
        if receipt.verdict is Verdict.HELD and not tried.decision.refuses:
            self._hold(call, plan, receipt)
        elif receipt.verdict is Verdict.REFUSED and receipt.stop_code in _LINE_CODES:
            self._trip(receipt)

    def _payer(self, key_id: str) -> GatewayKey:
        """Return a key as policies match it. What it forbids by now was let through then."""
        key = self._sources.key_of(key_id)
        return GatewayKey(key.id, "", key.name, tenant=key.tenant, team=key.team)

    def _said(self, call: PastCall) -> CallSaid:
        key = _kept(self._keys, call.key, self._payer) if call.key else None
        return CallSaid(
            None if call.task.startswith("-") else call.task,
            WorkPhase(call.named_phase) if call.named_phase else None,
            key=key,
            model=call.model or "-",
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            tenant=self._tenant,
        )

    def _standing(
        self, plan: Plan, call: PastCall, task: TaskThen, phase: WorkPhase | None
    ) -> Standing:
        """Return how everything would stand before a call."""
        reserve, now_ms = plan.reserve, call.started_ms
        to_line = is_held_to_line(reserve.enforce_from, phase)
        exempt = (
            to_line
            and phase in LAST_PHASES
            and (task.completing or task.completes(phase, now_ms, self._idle_close_ms))
        )
        ancestors = (self._task(name) for name in task.facts.parents)
        return Standing(
            (
                task.scope(ScopeKind.TASK, now_ms, held_to_line=to_line, exempt=exempt),
                *(one.scope(ScopeKind.PARENT, now_ms, held_to_line=to_line) for one in ancestors),
            ),
            task.phase_scope(phase, now_ms) if phase is not None else None,
            tuple(self._limit(limit, now_ms) for limit in reserve.spend),
            task.rate(reserve.rate, now_ms) if reserve.rate is not None else None,
            working=task.working_beside(phase),
        )

    def _limit(self, limit: SpendLimit, now_ms: int) -> LimitStanding:
        window = window_at(limit.window, ZoneInfo(limit.timezone), now_ms)
        totals = self._windows[_window(limit, window.label)]
        return LimitStanding(limit, window, totals.settled, totals.held)

    def _hold(self, call: PastCall, plan: Plan, receipt: Receipt) -> None:
        """Begin a call; it holds what it held then, if it was let through then."""
        at_ms, task = call.started_ms, self._task(call.task)
        task.completing = task.completing or receipt.scopes[0].exempt
        held = {
            Dimension.TOKENS: call.held_tokens or receipt.held_tokens,
            Dimension.NANO_USD: call.held_nano_usd,
            Dimension.CALLS: 1,
        }
        windows = tuple(_window(one.limit, one.window.label) for one in receipt.limits)
        for totals in self._all_totals(call, windows):
            totals.hold(held, at_ms)
        if plan.reserve.rate is not None:
            task.count(plan.reserve.rate.window_ms, at_ms, {Dimension.CALLS: 1})
        begun = _Open(call, plan, held, windows)
        heapq.heappush(self._open, (call.ends, call.call_id, begun))

    def _end(self, begun: _Open) -> None:
        """Charge a call what it used then."""
        call, task = begun.call, self._task(begun.call.task)
        used = {
            Dimension.TOKENS: call.tokens,
            Dimension.NANO_USD: call.nano_usd,
            Dimension.CALLS: 1,
        }
        for totals in self._all_totals(call, begun.windows):
            totals.settle(begun.held, used, call.ended_ms)
        task.totals.settled[Dimension.LATENCY_MS] += call.task_latency_ms
        if call.phase:
            of_phase = task.phases[WorkPhase(call.phase)]
            of_phase.settled[Dimension.LATENCY_MS] += call.phase_latency_ms
        if task.facts.parents:
            for ancestor, added in self._sources.latency_of(call.call_id).items():
                self._task(ancestor).totals.settled[Dimension.LATENCY_MS] += added
        rate = begun.plan.reserve.rate
        if rate is not None:
            spent = {dimension: used[dimension] for dimension in RATED[:2]}
            task.count(rate.window_ms, call.ended_ms, spent)

    def _all_totals(self, call: PastCall, windows: Iterable[tuple[str, ...]]) -> Iterable[Totals]:
        """Yield the totals that a call counts in: task, ancestors, phase, windows."""
        task = self._task(call.task)
        yield task.totals
        for name in task.facts.parents:
            yield self._task(name).totals
        if call.phase:
            yield task.phases[WorkPhase(call.phase)]
        for window in windows:
            yield self._windows[window]

    def _trip(self, receipt: Receipt) -> None:
        stopped = receipt.stop_scope
        if stopped is not None and stopped.kind is not ScopeKind.PHASE and not stopped.tripped:
            task = self._task(stopped.name)
            task.trip_dimension, task.trip_code = receipt.stop_dimension, receipt.stop_code

    def _task(self, name: str) -> TaskThen:
        return _kept(self._tasks, name, self._sources.task_of)

    # Counting -----------------------------------------------------------------------------------

    def _count(self, call: PastCall, task: TaskThen, tried: Tried) -> None:
        decision, result = tried.decision, self.result
        policy = tried.plan.policy.name if tried.plan is not None else "-"
        tiers = task.facts.complexity.value, task.facts.importance.value
        result.groups[_group(decision, policy, tiers, call.phase or "-")].add(call)
        result.then_now[call.decision, decision.outcome.value] += 1
        result.first_ms = result.first_ms or call.started_ms
        result.last_ms = call.started_ms
        if call.task.startswith("-"):
            return
        result.tasks.add(call.task)
        if decision.outcome is Outcome.REFUSE and call.task not in result.stops:
            spent = task.totals.settled[Dimension.TOKENS]
            stop = Stop(call.task, call.started_ms, decision.code, call.phase or "-", spent)
            result.stops[call.task] = stop


def _group(decision: Decision, policy: str, tiers: tuple[str, str], phase: str) -> Group:
    outcome, would = decision.outcome.value, decision.would_refuse
    return Group(policy, *tiers, phase, outcome, would, decision.code or "-")


def _playable(policies: PolicySet) -> tuple[PolicySet, list[str]]:
    """Return the policies that history can be played by, and the kinds that are left out."""
    left_out = [kind for kind in LEFT_OUT if getattr(policies, kind)]
    return replace(policies, **dict.fromkeys(left_out, ())), left_out  # type: ignore[arg-type]


def _window(limit: SpendLimit, label: str) -> tuple[str, ...]:
    return limit.policy, limit.kind.value, limit.name, label


def _kept(known: dict[str, _Kept], name: str, make: Callable[[str], _Kept]) -> _Kept:
    found = known.get(name)
    if found is None:
        found = known[name] = make(name)
    return found
