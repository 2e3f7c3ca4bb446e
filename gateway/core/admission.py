"""May a call start? The rules of admission over balances, as a pure function.

This is the executable specification of `store/lua/reserve.lua`: the store's contract tests run both
on the same balances and expect the same verdict. Letters as in `docs/budget-arithmetic.md`:
L limit in force, G grants, C line (grants included), S settled, H live holds of others, A own hold.

Rules, in the order in which they are asked:
1. state: a line is breached iff S > C. A is no part of it. `S == C` is within.
2. in flight: S <= C < S + H means that others' open calls may use the rest: ask again later.
4. worst case: A = min(input bound + ceiling, C - S - H), never below what the call needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from gateway.core.budget import LAST_PHASES, Dimension
from gateway.core.phases import WorkPhase
from gateway.core.policy import Effect, ReserveKind
from gateway.core.vocabulary import Vocabulary


class ScopeKind(Vocabulary):
    """What a balance belongs to."""

    TASK = "task"
    PARENT = "parent"
    PHASE = "phase"
    KEY = "key"
    TEAM = "team"
    TENANT = "tenant"
    MODEL = "model"
    RATE = "rate"


_TASKS = (ScopeKind.TASK, ScopeKind.PARENT)
_PARENT_BUDGETS = frozenset({ScopeKind.KEY, ScopeKind.TEAM, ScopeKind.TENANT, ScopeKind.MODEL})


class Balance(Struct, frozen=True, gc=False):
    """The state of one dimension of one scope. `line` is C, or the runaway line with grants.

    `cumulative` is always C of the cumulative threshold: a trip holds for as long as S is above it.
    """

    limit: int
    granted: int
    line: int
    cumulative: int
    runaway: int
    settled: int
    held: int

    @property
    def allowed(self) -> int:
        """Return L + G, the figure that messages and headers call the limit."""
        return self.limit + self.granted

    @property
    def breached(self) -> bool:
        """Return rule 1: the settled total is above the line."""
        return self.settled > self.line

    @property
    def room(self) -> int:
        """Return what may still be held: C - S - H."""
        return self.line - self.settled - self.held


class Scope(Struct, frozen=True):
    """A task, an ancestor or a phase, with its balances and its stop state.

    A task that may complete (`may_complete`) is `exempt` from the cumulative line, never from the
    runaway line: that is its balances' line then.
    """

    kind: ScopeKind
    name: str
    balances: dict[Dimension, Balance]
    state: str = "open"
    trip_dimension: Dimension | None = None
    trip_code: str = ""
    exempt: bool = False

    @property
    def tripped(self) -> bool:
        """Return whether the stop-loss holds: it was set and the total is still above the line."""
        if self.trip_dimension is None:
            return False
        balance = self.balances.get(self.trip_dimension)
        return balance is not None and balance.settled > balance.cumulative


@dataclass(frozen=True, slots=True)
class Effects:
    """What a breach does, by scope kind and dimension; None where nothing is compared."""

    task: dict[Dimension, Effect]
    phase: dict[Dimension, Effect]

    def of(self, kind: ScopeKind, dimension: Dimension) -> Effect | None:
        """Return the effect for a scope of `kind`; a spend limit that is compared refuses."""
        if kind in _PARENT_BUDGETS:
            return Effect.REFUSE
        table = self.phase if kind is ScopeKind.PHASE else self.task
        return table.get(dimension)


class Need(Struct, frozen=True, gc=False):
    """What a call may use. Tokens are budget tokens; `unit_nano_usd` is per output token.

    `input_low` and `input_high` bound the input; equal once counted. `output` is the ceiling for
    worst case, the expected output otherwise; `output_min` the least that makes sense to allow.
    One output token counts `output_weight` thousandths of a budget token.
    """

    input_low: int
    input_high: int
    input_nano_usd: int
    output: int
    output_min: int
    unit_nano_usd: int
    output_weight: int = 1000

    def output_tokens(self, output: int) -> int:
        """Return what `output` tokens count against a token budget, rounded up."""
        return -(-output * self.output_weight // 1000)


class Verdict(Vocabulary):
    """The answer of admission. Values are the words of the store's reply."""

    HELD = "held"
    REFUSED = "refused"
    SHORT = "short"
    IN_FLIGHT = "in_flight"
    COUNT = "count"
    SOFT = "soft"


class Admission(Struct, frozen=True):
    """A verdict with the scope and dimension that made it, and what is held on HELD."""

    verdict: Verdict
    scope: Scope | None = None
    dimension: Dimension | None = None
    code: str = ""
    output: int = 0


def admit(
    scopes: Sequence[Scope],
    effects: Effects,
    kind: ReserveKind,
    need: Need,
    too_fast: Dimension | None = None,
    *,
    parallel: bool = False,
) -> Admission:
    """Return whether a call may start.

    `scopes`: the task, its ancestors, the spend limits that are enforced, then the phase.
    `too_fast` names the dimension in which the task's velocity refuses (`core/velocity.py`);
    `parallel` tells that the last scope is a phase that may not work beside another one's calls.
    """
    stopped = first_stop(scopes, effects)
    if stopped is None and too_fast is not None:
        stopped = Admission(Verdict.REFUSED, scopes[0], too_fast, "velocity_exceeded")
    if stopped is not None:
        return stopped
    if parallel:
        return Admission(Verdict.IN_FLIGHT, scopes[-1], code="budget_in_flight")
    if kind is ReserveKind.NONE:
        return Admission(Verdict.HELD, output=need.output)
    in_flight = _first_in_flight(scopes, effects)
    if in_flight is not None:
        return in_flight
    if kind is ReserveKind.EXPECTED:
        return Admission(Verdict.HELD, output=need.output)
    return _admit_worst_case(scopes, effects, need)


def is_held_to_line(enforce_from: WorkPhase | None, phase: WorkPhase | None) -> bool:
    """Return whether calls in a phase are held to the cumulative line, not the runaway line.

    Without a phase they are: only a phase before `enforce_from` is let go on.
    """
    return enforce_from is None or phase is None or phase.order >= enforce_from.order


def may_complete(
    phase: WorkPhase | None, task: Scope, lines: Mapping[Dimension, int], *, review_closed: bool
) -> bool:
    """Return whether a task is let through to its end at this call, and from then on (SL-9, G-5).

    Only PR and MONITOR may remain. `lines` are those of `budget.completion_lines` with grants; a
    task without them (of an older gateway) is held to the cumulative line.
    """
    return (
        phase in LAST_PHASES
        and review_closed
        and Dimension.TOKENS in lines
        and all(task.balances[d].settled <= lines[d] for d in lines if d in task.balances)
    )


def _refusing(
    scopes: Sequence[Scope], effects: Effects
) -> Iterator[tuple[Scope, Dimension, Balance]]:
    """Yield every balance whose breach refuses, in the order of the rules."""
    for scope in scopes:
        for dimension, balance in scope.balances.items():
            if effects.of(scope.kind, dimension) is Effect.REFUSE:
                yield scope, dimension, balance


def first_stop(scopes: Sequence[Scope], effects: Effects) -> Admission | None:
    """Return rule 1's refusal: killed, blocked, tripped, runaway, task, parents, limits, phase."""
    for state in ("killed", "blocked"):
        for scope in scopes:
            if scope.state == state:
                return Admission(Verdict.REFUSED, scope, code=f"task_{state}")
    for scope in scopes:
        trip = scope.trip_dimension
        if trip and scope.tripped and effects.of(scope.kind, trip) is Effect.REFUSE:
            return Admission(Verdict.REFUSED, scope, trip, scope.trip_code)
    return _first_breach(list(_refusing(scopes, effects)))


def _first_breach(refusing: list[tuple[Scope, Dimension, Balance]]) -> Admission | None:
    """Return the first line that is crossed: runaway of a task, then in the order of the scopes."""
    for scope, dimension, balance in refusing:
        if scope.kind in _TASKS and balance.settled > balance.runaway:
            return Admission(Verdict.REFUSED, scope, dimension, "runaway_task")
    for scope, dimension, balance in refusing:
        if balance.breached:
            return Admission(Verdict.REFUSED, scope, dimension, _exceeded(scope.kind))
    return None


def _exceeded(kind: ScopeKind) -> str:
    if kind in _PARENT_BUDGETS:
        return "spend_limit_exceeded"
    return "phase_budget_exceeded" if kind is ScopeKind.PHASE else "task_budget_exceeded"


def _first_in_flight(scopes: Sequence[Scope], effects: Effects) -> Admission | None:
    for scope, dimension, balance in _refusing(scopes, effects):
        if balance.settled + balance.held > balance.line:
            return Admission(Verdict.IN_FLIGHT, scope, dimension, "budget_in_flight")
    return None


def _admit_worst_case(scopes: Sequence[Scope], effects: Effects, need: Need) -> Admission:
    """Return rule 4: hold as much output as every line leaves, or say why not.

    `best` is what would be left if the input came to its lower bound: counting it is worth while
    only if that changes the answer.
    """
    output, best, tightest = need.output, need.output, None
    for scope, dimension, balance in _refusing(scopes, effects):
        affordable = _affordable_output(dimension, balance.room, need, need.input_high)
        if affordable < output:
            output, tightest = affordable, (scope, dimension, balance)
        best = min(best, _affordable_output(dimension, balance.room, need, need.input_low))
    if tightest is None:
        return Admission(Verdict.HELD, output=output)
    if best > output and best >= need.output_min:
        return Admission(Verdict.COUNT)
    if output >= need.output_min:
        return Admission(Verdict.HELD, output=output)
    scope, dimension, balance = tightest
    if balance.held > 0:
        return Admission(Verdict.IN_FLIGHT, scope, dimension, "budget_in_flight")
    return Admission(Verdict.SHORT, scope, dimension, _exceeded(scope.kind))


def _affordable_output(dimension: Dimension, room: int, need: Need, input_tokens: int) -> int:
    """Return how many output tokens `room` pays for beside the input; negative if not even it.

    What fewer input tokens save in money is not known; an output token is taken to be no cheaper.
    """
    if dimension is Dimension.TOKENS:
        return _fitting((room - input_tokens) * 1000, need.output_weight, need.output)
    if dimension is Dimension.NANO_USD:
        paid = _fitting(room - need.input_nano_usd, need.unit_nano_usd, need.output)
        return paid + need.input_high - input_tokens
    if dimension is Dimension.CALLS and room < 1:
        return -1
    return need.output


def _fitting(rest: int, each: int, wanted: int) -> int:
    """Return how many units that cost `each` fit into `rest`; all of them if they cost nothing."""
    if rest < 0:
        return -1
    return rest // each if each > 0 else wanted
