"""From balances and policy to one decision per call: allow, flag or refuse, with the breaches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from msgspec import Struct

from gateway.core.admission import Balance, Effects, Scope, ScopeKind, Verdict, first_stop
from gateway.core.amount_text import NOUNS, format_amount
from gateway.core.budget import Dimension, percent
from gateway.core.grace import Grace
from gateway.core.limit_standing import LimitStanding, crossings, limit_message
from gateway.core.loops import LoopStanding
from gateway.core.parallel_phases import parallel_message
from gateway.core.phases import WorkPhase
from gateway.core.policy import DimensionAction, Effect, Mode, ReserveKind, StopLossPolicy
from gateway.core.stop_words import STATES, way_out
from gateway.core.unpriced import Unpriced
from gateway.core.velocity import RateStanding, velocity_message
from gateway.core.vocabulary import Vocabulary


class Outcome(Vocabulary):
    """What becomes of a call; the value of the `x-tollgate-decision` header."""

    ALLOW = "allow"
    FLAG = "flag"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Breach:
    """One line that a settled total has crossed."""

    scope: ScopeKind
    name: str
    dimension: Dimension
    used: int
    allowed: int
    line: int


class Receipt(Struct, frozen=True):
    """What the store answered to a reserve. Scopes: the task, its ancestors, then the phase.

    `None` balances never occur; a scope without a limit in a dimension lacks that balance.
    `held_tokens` is what was held, or what the call would have needed; `held_nano_usd` and `output`
    (the ceiling that was paid for) mean something only if it was HELD. `limits` are the spend
    limits that the call is held to, `stop_limit` the one that stopped it, `parallel_phase` the
    phase that put it off (IN_FLIGHT), or beside whose calls it begins its own (EC10).
    `unended_phase` is the one that somebody began and nobody ended, where the call names another.
    """

    verdict: Verdict
    now_ms: int
    scopes: tuple[Scope, ...] = ()
    phase: WorkPhase | None = None
    execution: int = 0
    held_tokens: int = 0
    held_nano_usd: int = 0
    output: int = 0
    spent_nano_usd: int = 0
    stop_scope: Scope | None = None
    stop_dimension: Dimension | None = None
    stop_code: str = ""
    tripped_now: bool = False
    episode: int = 0
    loop: LoopStanding | None = None
    grace: Grace | None = None
    limits: tuple[LimitStanding, ...] = ()
    stop_limit: LimitStanding | None = None
    rate: RateStanding | None = None
    parallel_phase: WorkPhase | None = None
    unended_phase: WorkPhase | None = None


class Decision(Struct, frozen=True):
    """The decision for one call. `code` and `message` are set when it refuses.

    `retryable` marks a refusal that is none: others' open calls hold the rest (`budget_in_flight`).
    `clamp` is the output ceiling to put into the body, where the policy paid for less than asked.
    """

    outcome: Outcome
    breaches: tuple[Breach, ...] = ()
    would_refuse: bool = False
    code: str = ""
    message: str = ""
    retryable: bool = False
    clamp: int | None = None

    @property
    def refuses(self) -> bool:
        """Return whether the call gets an answer of ours instead of the provider's."""
        return self.outcome is Outcome.REFUSE


@lru_cache(maxsize=64)
def effects_of(policy: StopLossPolicy, mode: Mode) -> Effects:
    """Return what a breach does under `policy` in `mode`; observing turns refuse into flag."""
    if mode is Mode.OFF:
        return Effects({}, {})

    def in_mode(effect: Effect) -> Effect:
        return effect if mode is Mode.ENFORCE else Effect.FLAG

    def both(one: Effect, other: Effect) -> Effect:
        return in_mode(Effect.REFUSE if one is other is Effect.REFUSE else Effect.FLAG)

    task = dict.fromkeys(Dimension, in_mode(policy.effect))
    task[Dimension.LATENCY_MS] = in_mode(policy.latency_action)
    phase = dict.fromkeys(Dimension, in_mode(policy.phase_action))
    phase[Dimension.LATENCY_MS] = both(policy.phase_action, policy.latency_action)
    for dimension, action in (
        (Dimension.TOKENS, policy.token_action),
        (Dimension.NANO_USD, policy.cost_action),
    ):
        if action is DimensionAction.OFF:
            del task[dimension], phase[dimension]
        elif action is not None:
            task[dimension] = in_mode(Effect(action.value))
            phase[dimension] = both(policy.phase_action, Effect(action.value))
    return Effects(task, phase)


def decide(
    receipt: Receipt,
    policy: StopLossPolicy,
    mode: Mode,
    ceiling: int,
    unpriced: Unpriced = Unpriced.PASSES,
) -> Decision:
    """Return the decision for a call that asked for up to `ceiling` output tokens."""
    breaches = tuple(find_breaches(receipt.scopes, effects_of(policy, mode)))
    beside = _NOTHING_BESIDE
    if receipt.limits or receipt.rate is not None:
        beside = _beside(receipt)
        breaches += beside.breaches
    if receipt.verdict is Verdict.IN_FLIGHT:
        return Decision(
            Outcome.REFUSE, breaches, False, "budget_in_flight", _in_flight(receipt), True
        )
    if receipt.verdict in (Verdict.REFUSED, Verdict.SHORT):
        return Decision(
            Outcome.REFUSE, breaches, False, receipt.stop_code, refusal_message(receipt)
        )
    would_refuse = (
        mode is Mode.OBSERVE
        and any(map(_may_be_stopped, receipt.scopes))
        and first_stop(receipt.scopes, effects_of(policy, Mode.ENFORCE)) is not None
    ) or (unpriced is Unpriced.WOULD_REFUSE or beside.would_refuse)
    clamped = (
        mode is Mode.ENFORCE
        and policy.reserve is ReserveKind.WORST_CASE
        and receipt.output < ceiling
    )
    return Decision(
        Outcome.FLAG
        if breaches or would_refuse or unpriced is not Unpriced.PASSES
        else Outcome.ALLOW,
        breaches,
        would_refuse,
        clamp=receipt.output if clamped else None,
    )


class _Beside(Struct, frozen=True):
    """What limits beside the task's own say of a call."""

    breaches: tuple[Breach, ...] = ()
    would_refuse: bool = False


_NOTHING_BESIDE = _Beside()


def _beside(receipt: Receipt) -> _Beside:
    """Return the lines of spend limits, and of the task's velocity, that were crossed."""
    crossed = list(crossings(receipt.limits))
    breaches = [
        Breach(
            one.standing.kind,
            one.standing.name,
            one.dimension,
            one.standing.settled[one.dimension],
            one.line,
            one.line,
        )
        for one in crossed
    ]
    would_refuse = any(one.would_refuse for one in crossed)
    rate = receipt.rate
    dimension = rate.crossed if rate is not None else None
    if rate is not None and dimension is not None:
        line = rate.plan.lines[dimension]
        breaches.append(
            Breach(ScopeKind.RATE, rate.plan.policy, dimension, rate.used[dimension], line, line)
        )
        would_refuse = would_refuse or rate.plan.would_refuse
    return _Beside(tuple(breaches), would_refuse)


def _may_be_stopped(scope: Scope) -> bool:
    """Return False for a scope that no rule can stop: open, never tripped, within its lines."""
    return (
        scope.state != "open"
        or scope.trip_dimension is not None
        or any(balance.breached for balance in scope.balances.values())
    )


def find_breaches(scopes: Sequence[Scope], effects: Effects) -> Iterator[Breach]:
    """Yield every crossed line that the policy cares about."""
    for scope in scopes:
        for dimension, balance in scope.balances.items():
            line = balance.cumulative if scope.exempt else balance.line
            if balance.settled > line and effects.of(scope.kind, dimension) is not None:
                yield Breach(
                    scope.kind,
                    scope.name,
                    dimension,
                    balance.settled,
                    balance.allowed,
                    line,
                )


def exceeded_message(scope: Scope, dimension: Dimension, balance: Balance) -> str:
    """Return SL-4's sentence: `Task T exceeded token budget: 15,234 / 12,000 (127%)`."""
    owner = "Phase" if scope.kind is ScopeKind.PHASE else "Task"
    used, allowed = balance.settled, balance.allowed
    return (
        f"{owner} {scope.name} exceeded {NOUNS[dimension]} budget: "
        f"{format_amount(used, dimension)} / {format_amount(allowed, dimension)} "
        f"({percent(used, allowed)}%)"
    )


def refusal_message(receipt: Receipt) -> str:
    """Return what the agent reads: the fact, where it happened, and the way out.

    The wording avoids phrases that client libraries take for another error (context window,
    request quotas), see `docs/wire.md`.
    """
    scope, dimension = receipt.stop_scope, receipt.stop_dimension
    if dimension is not None and receipt.stop_limit is not None:
        return limit_message(receipt.stop_limit, dimension, _missing(receipt, dimension))
    if dimension is not None and receipt.stop_code == "velocity_exceeded" and receipt.rate:
        return velocity_message(receipt.scopes[0].name, receipt.rate, dimension)
    task = receipt.scopes[0].name if receipt.scopes else "-"
    if scope is not None and scope.kind is not ScopeKind.PHASE:
        task = scope.name  # an ancestor stops its children
    phase = receipt.phase.value if receipt.phase else "none"
    hint = f"Retrying will not help. {way_out(task, receipt.stop_code)}"
    if scope is None or dimension is None:
        state = STATES.get(receipt.stop_code, "was stopped")
        return f"Task {task} {state}. Phase: {phase}. {hint}"
    balance = scope.balances[dimension]
    where = f"Phase: {phase}, dimension: {dimension.value}."
    if receipt.verdict is Verdict.SHORT:
        left = format_amount(max(0, balance.room), dimension)
        need = _missing(receipt, dimension)
        owner = "Phase" if scope.kind is ScopeKind.PHASE else "Task"
        return (
            f"{owner} {scope.name} has {left} left of its {NOUNS[dimension]} budget, this call "
            f"needs {need}. {where} {hint}"
        )
    return f"{exceeded_message(scope, dimension, balance)}. {where} {hint}"


def _missing(receipt: Receipt, dimension: Dimension) -> str | None:
    """Return what a call needs that is not left; None if that is not why it was refused."""
    if receipt.verdict is not Verdict.SHORT:
        return None
    tokens = format_amount(receipt.held_tokens, Dimension.TOKENS)
    return f"{tokens} tokens" if dimension is Dimension.TOKENS else "more"


def _in_flight(receipt: Receipt) -> str:
    scope, other = receipt.stop_scope, receipt.parallel_phase
    name = scope.name if scope else "-"
    if other is not None:
        return parallel_message(receipt.scopes[0].name, name, other.value)
    return (
        f"The rest of the budget of {name} is held by calls that are still open. "
        "Ask again in a moment."
    )
