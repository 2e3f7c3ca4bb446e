"""Decisions: outcome, breaches, what observing would have refused, and what the agent reads."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.core.admission import Balance, Effects, Scope, ScopeKind, Verdict, first_stop
from gateway.core.budget import Dimension
from gateway.core.decision import (
    Breach,
    Decision,
    Outcome,
    Receipt,
    decide,
    effects_of,
    exceeded_message,
    find_breaches,
    format_amount,
    refusal_message,
)
from gateway.core.phases import WorkPhase
from gateway.core.policy import DimensionAction, Effect, Mode, ReserveKind, StopLossPolicy

TOKENS, LATENCY, NANO_USD, CALLS = Dimension
WORST_CASE = StopLossPolicy(reserve=ReserveKind.WORST_CASE)
POLICY = StopLossPolicy()


def balance(
    settled: int, limit: int = 12_000, *, held: int = 0, line: int | None = None
) -> Balance:
    """Return a balance with the default thresholds 1.2 and 2.0, held to the first."""
    cumulative = limit * 6 // 5
    return Balance(
        limit=limit,
        granted=0,
        line=cumulative if line is None else line,
        cumulative=cumulative,
        runaway=2 * limit,
        settled=settled,
        held=held,
    )


def scope(
    kind: ScopeKind = ScopeKind.TASK,
    name: str = "IMP-COST-01",
    state: str = "open",
    trip: Dimension | None = None,
    **balances: Balance,
) -> Scope:
    by_dimension = {Dimension(word): one for word, one in balances.items()}
    return Scope(kind, name, by_dimension, state, trip, "task_budget_exceeded" if trip else "")


def receipt(
    verdict: Verdict,
    *scopes: Scope,
    stop: int | None = None,
    dimension: Dimension | None = TOKENS,
    code: str = "task_budget_exceeded",
    phase: WorkPhase | None = WorkPhase.VERIFY,
    held_tokens: int = 0,
    output: int = 0,
) -> Receipt:
    return Receipt(
        verdict,
        now_ms=0,
        scopes=scopes,
        phase=phase,
        held_tokens=held_tokens,
        output=output,
        stop_scope=None if stop is None else scopes[stop],
        stop_dimension=dimension if stop is not None else None,
        stop_code=code,
    )


def held(*scopes: Scope, output: int = 500) -> Receipt:
    return receipt(Verdict.HELD, *scopes, code="", output=output)


# What a breach does ---------------------------------------------------------------------------

F, R = Effect.FLAG, Effect.REFUSE
OFF = [None] * 8


@pytest.mark.parametrize(
    ("effect", "latency", "phase", "mode", "task_then_phase"),
    [
        (R, F, F, Mode.OFF, OFF),
        (R, R, R, Mode.OFF, OFF),
        (R, F, F, Mode.OBSERVE, [F] * 8),
        (R, R, R, Mode.OBSERVE, [F] * 8),
        (F, F, F, Mode.ENFORCE, [F] * 8),
        (R, F, F, Mode.ENFORCE, [R, F, R, R, F, F, F, F]),
        (F, R, F, Mode.ENFORCE, [F, R, F, F, F, F, F, F]),
        (F, F, R, Mode.ENFORCE, [F, F, F, F, R, F, R, R]),
        (R, R, F, Mode.ENFORCE, [R, R, R, R, F, F, F, F]),
        (R, F, R, Mode.ENFORCE, [R, F, R, R, R, F, R, R]),
        (R, R, R, Mode.ENFORCE, [R] * 8),
    ],
)
def test_effects(
    effect: Effect,
    latency: Effect,
    phase: Effect,
    mode: Mode,
    task_then_phase: list[Effect | None],
) -> None:
    """Tokens, latency, money, calls of the task, then of the phase; observing never refuses."""
    policy = StopLossPolicy(effect=effect, latency_action=latency, phase_action=phase)
    effects = effects_of(policy, mode)
    kinds = (ScopeKind.TASK, ScopeKind.PHASE)
    assert [effects.of(kind, d) for kind in kinds for d in Dimension] == task_then_phase
    assert [effects.of(ScopeKind.PARENT, d) for d in Dimension] == task_then_phase[:4]


@pytest.mark.parametrize(
    ("token", "cost", "mode", "task", "phase"),
    [
        (None, None, Mode.ENFORCE, [R, F, R, R], [R, F, R, R]),
        (DimensionAction.OFF, None, Mode.ENFORCE, [None, F, R, R], [None, F, R, R]),
        (None, DimensionAction.OFF, Mode.ENFORCE, [R, F, None, R], [R, F, None, R]),
        (DimensionAction.FLAG, None, Mode.ENFORCE, [F, F, R, R], [F, F, R, R]),
        (DimensionAction.REFUSE, DimensionAction.FLAG, Mode.ENFORCE, [R, F, F, R], [R, F, F, R]),
        (
            DimensionAction.OFF,
            DimensionAction.REFUSE,
            Mode.OBSERVE,
            [None, F, F, F],
            [None, F, F, F],
        ),
    ],
)
def test_USE5_dimensions_are_switched_each_by_itself(
    token: DimensionAction | None,
    cost: DimensionAction | None,
    mode: Mode,
    task: list[Effect | None],
    phase: list[Effect | None],
) -> None:
    """Tokens off and latency kept is the fallback of risk 2."""
    policy = StopLossPolicy(phase_action=R, token_action=token, cost_action=cost)
    effects = effects_of(policy, mode)
    assert [effects.of(ScopeKind.TASK, d) for d in Dimension] == task
    assert [effects.of(ScopeKind.PHASE, d) for d in Dimension] == phase


# Decisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", Mode)
def test_within_every_line_a_call_is_allowed(mode: Mode) -> None:
    """`S == C` is within, in every mode."""
    scopes = (scope(tokens=balance(14_400)), scope(ScopeKind.PHASE, "VERIFY", tokens=balance(1)))
    assert decide(held(*scopes), POLICY, mode, 500) == Decision(Outcome.ALLOW)


BREACH = Breach(ScopeKind.TASK, "IMP-COST-01", TOKENS, 15_234, 12_000, 14_400)


def test_observing_flags_and_says_what_it_would_have_done() -> None:
    """A breach whose effect is to refuse is flagged and counted as `would_refuse`."""
    seen = held(scope(tokens=balance(15_234)))
    assert decide(seen, POLICY, Mode.OBSERVE, 500) == Decision(Outcome.FLAG, (BREACH,), True)


def test_a_flagging_policy_only_flags() -> None:
    """Neither observing nor enforcing would refuse."""
    seen = held(scope(tokens=balance(15_234)))
    for mode in (Mode.OBSERVE, Mode.ENFORCE):
        decision = decide(seen, StopLossPolicy(effect=Effect.FLAG), mode, 500)
        assert decision == Decision(Outcome.FLAG, (BREACH,))


def test_a_policy_that_is_off_sees_nothing() -> None:
    """No breach, no flag, no would-have."""
    seen = held(scope(tokens=balance(99_999)))
    assert decide(seen, POLICY, Mode.OFF, 500) == Decision(Outcome.ALLOW)


def test_latency_and_phases_are_flagged_by_default() -> None:
    """Their breaches are told in enforce too, and nothing would be refused."""
    scopes = (
        scope(tokens=balance(1), latency_ms=balance(14_401)),
        scope(ScopeKind.PARENT, "EPIC", calls=balance(2, limit=10)),
        scope(ScopeKind.PHASE, "VERIFY", tokens=balance(601, limit=400, line=600)),
    )
    breaches = (
        Breach(ScopeKind.TASK, "IMP-COST-01", LATENCY, 14_401, 12_000, 14_400),
        Breach(ScopeKind.PHASE, "VERIFY", TOKENS, 601, 400, 600),
    )
    for mode in (Mode.OBSERVE, Mode.ENFORCE):
        assert decide(held(*scopes), POLICY, mode, 500) == Decision(Outcome.FLAG, breaches)


def test_a_trip_would_refuse_though_the_line_in_force_is_not_crossed() -> None:
    """A task tripped earlier, now held to the runaway line: flagged without a breach."""
    tripped = scope(trip=TOKENS, tokens=balance(14_401, line=24_000))
    assert decide(held(tripped), POLICY, Mode.OBSERVE, 1) == Decision(Outcome.FLAG, (), True)


@pytest.mark.parametrize(
    ("policy", "mode", "output", "clamp"),
    [
        (WORST_CASE, Mode.ENFORCE, 499, 499),
        (WORST_CASE, Mode.ENFORCE, 500, None),
        (WORST_CASE, Mode.OBSERVE, 499, None),
        (WORST_CASE, Mode.OFF, 499, None),
        (POLICY, Mode.ENFORCE, 499, None),
        (StopLossPolicy(reserve=ReserveKind.NONE), Mode.ENFORCE, 499, None),
    ],
)
def test_when_the_output_is_clamped(
    policy: StopLossPolicy, mode: Mode, output: int, clamp: int | None
) -> None:
    """Only where the policy paid for less than was asked: worst case, enforced."""
    seen = held(scope(tokens=balance(0)), output=output)
    assert decide(seen, policy, mode, 500).clamp == clamp


def test_in_flight_is_retryable_and_no_breach() -> None:
    """Others' open calls hold the rest: ask again, nothing was crossed."""
    seen = receipt(
        Verdict.IN_FLIGHT, scope(tokens=balance(100, held=20_000)), stop=0, code="budget_in_flight"
    )
    decision = decide(seen, POLICY, Mode.ENFORCE, 500)
    assert decision == Decision(
        Outcome.REFUSE,
        code="budget_in_flight",
        message=(
            "The rest of the budget of IMP-COST-01 is held by calls that are still open. "
            "Ask again in a moment."
        ),
        retryable=True,
    )
    assert decision.refuses


def test_EC10_a_phase_that_waits_for_another_one() -> None:
    """It may ask again, and is told for which."""
    own = structs.replace(scope(), kind=ScopeKind.PHASE, name="THINK")
    seen = receipt(Verdict.IN_FLIGHT, scope(), own, stop=1, code="budget_in_flight")
    seen = structs.replace(seen, parallel_phase=WorkPhase.PLAN)
    decided = decide(seen, POLICY, Mode.ENFORCE, 1)
    assert (decided.code, decided.retryable) == ("budget_in_flight", True)
    assert decided.message.startswith("Phase PLAN of task IMP-COST-01 has calls")
    assert "no call of THINK starts beside them" in decided.message


def test_in_flight_without_a_scope() -> None:
    """A reply that names none is worded all the same."""
    seen = receipt(Verdict.IN_FLIGHT, code="budget_in_flight")
    assert decide(seen, POLICY, Mode.ENFORCE, 1).message.startswith(
        "The rest of the budget of - is"
    )


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.SHORT])
def test_a_refusal_is_final(verdict: Verdict) -> None:
    """It has the store's code, the message, the breaches, and is not to be retried."""
    seen = receipt(verdict, scope(tokens=balance(15_234)), stop=0, held_tokens=9_000)
    decision = decide(seen, POLICY, Mode.ENFORCE, 500)
    assert decision == Decision(
        Outcome.REFUSE, (BREACH,), code="task_budget_exceeded", message=refusal_message(seen)
    )
    assert decision.refuses
    assert not decide(held(), POLICY, Mode.ENFORCE, 500).refuses


def test_breaches_without_effect_are_none() -> None:
    """A dimension that a policy does not look at has no breach."""
    scopes = [scope(tokens=balance(99_999), calls=balance(99_999))]
    assert [b.dimension for b in find_breaches(scopes, Effects({CALLS: F}, {}))] == [CALLS]


AMOUNTS = st.integers(0, 300)


@st.composite
def scopes_of_any_state(draw: st.DrawFn) -> tuple[Scope, ...]:
    """Return a task and a phase with lines in every order that a configuration may give."""
    found = []
    for kind in (ScopeKind.TASK, ScopeKind.PHASE):
        cumulative = draw(AMOUNTS)
        runaway = cumulative + draw(AMOUNTS)
        line = draw(st.sampled_from([cumulative, runaway]))
        balances = {
            dimension: Balance(100, 0, line, cumulative, runaway, draw(AMOUNTS), draw(AMOUNTS))
            for dimension in draw(st.sets(st.sampled_from(list(Dimension))))
        }
        trip = draw(st.none() | st.sampled_from(list(Dimension)))
        state = draw(st.sampled_from(["open", "open", "killed", "blocked", "completed"]))
        found.append(Scope(kind, "T", balances, state, trip, "task_budget_exceeded"))
    return tuple(found)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(scopes_of_any_state(), st.sampled_from(Effect), st.sampled_from(Effect))
def test_would_refuse_is_what_enforcing_would_stop(
    scopes: tuple[Scope, ...], effect: Effect, other: Effect
) -> None:
    """No shortcut may miss a stop: observing says exactly what the rules of admission say."""
    policy = StopLossPolicy(effect=effect, latency_action=other, phase_action=other)
    stopped = first_stop(scopes, effects_of(policy, Mode.ENFORCE)) is not None
    decision = decide(held(*scopes), policy, Mode.OBSERVE, 1)
    assert decision.would_refuse is stopped
    assert not decision.refuses


# Messages -------------------------------------------------------------------------------------

SL_4 = "Task IMP-COST-01 exceeded token budget: 15,234 / 12,000 (127%)"
WAY_OUT = (
    "Retrying will not help. Finish the task, or ask an operator for an override "
    "(POST /admin/v1/tasks/{}/overrides)."
)

KILLED = (
    "Retrying will not help. Stop, or ask an operator to resume it "
    "(POST /admin/v1/tasks/{}/resume)."
)


def test_the_sentence_of_sl_4() -> None:
    """Exactly as required: thousands separators, percent rounded."""
    assert exceeded_message(scope(), TOKENS, balance(15_234)) == SL_4


def phase_scope(**balances: Balance) -> Scope:
    return scope(ScopeKind.PHASE, "VERIFY", **balances)


REFUSALS = {
    "task": (
        receipt(Verdict.REFUSED, scope(tokens=balance(15_234)), stop=0),
        f"{SL_4}. Phase: VERIFY, dimension: tokens. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "no phase": (
        receipt(Verdict.REFUSED, scope(tokens=balance(15_234)), stop=0, phase=None),
        f"{SL_4}. Phase: none, dimension: tokens. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "runaway": (
        receipt(Verdict.REFUSED, scope(tokens=balance(24_001)), stop=0, code="runaway_task"),
        "Task IMP-COST-01 exceeded token budget: 24,001 / 12,000 (200%). "
        f"Phase: VERIFY, dimension: tokens. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "latency": (
        receipt(
            Verdict.REFUSED,
            scope(latency_ms=balance(1_245_400, 1_000_000)),
            stop=0,
            dimension=LATENCY,
        ),
        "Task IMP-COST-01 exceeded latency budget: 1,245s / 1,000s (125%). "
        f"Phase: VERIFY, dimension: latency_ms. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "cost": (
        receipt(
            Verdict.REFUSED,
            scope(nano_usd=balance(6_030_000_000, 5_000_000_000)),
            stop=0,
            dimension=NANO_USD,
        ),
        "Task IMP-COST-01 exceeded cost budget: $6.03 / $5.00 (121%). "
        f"Phase: VERIFY, dimension: nano_usd. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "calls": (
        receipt(Verdict.REFUSED, scope(calls=balance(13, 10)), stop=0, dimension=CALLS),
        "Task IMP-COST-01 exceeded call budget: 13 / 10 (130%). "
        f"Phase: VERIFY, dimension: calls. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "grant": (
        receipt(
            Verdict.REFUSED,
            scope(tokens=Balance(12_000, 500, 14_900, 14_900, 24_500, 15_234, 0)),
            stop=0,
        ),
        "Task IMP-COST-01 exceeded token budget: 15,234 / 12,500 (122%). "
        f"Phase: VERIFY, dimension: tokens. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "parent": (
        receipt(
            Verdict.REFUSED,
            scope(tokens=balance(1)),
            scope(ScopeKind.PARENT, "EPIC-9", tokens=balance(15_234)),
            stop=1,
        ),
        "Task EPIC-9 exceeded token budget: 15,234 / 12,000 (127%). "
        f"Phase: VERIFY, dimension: tokens. {WAY_OUT.format('EPIC-9')}",
    ),
    "phase": (
        receipt(
            Verdict.REFUSED,
            scope(tokens=balance(1)),
            phase_scope(tokens=balance(601, 400)),
            stop=1,
            code="phase_budget_exceeded",
        ),
        "Phase VERIFY exceeded token budget: 601 / 400 (150%). "
        f"Phase: VERIFY, dimension: tokens. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "short of tokens": (
        receipt(Verdict.SHORT, scope(tokens=balance(14_000, held=0)), stop=0, held_tokens=16_024),
        "Task IMP-COST-01 has 400 left of its token budget, this call needs 16,024 tokens. "
        f"Phase: VERIFY, dimension: tokens. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "nothing left": (
        receipt(Verdict.SHORT, scope(tokens=balance(14_400, held=7)), stop=0, held_tokens=1_024),
        "Task IMP-COST-01 has 0 left of its token budget, this call needs 1,024 tokens. "
        f"Phase: VERIFY, dimension: tokens. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "short of money": (
        receipt(
            Verdict.SHORT,
            scope(),
            phase_scope(nano_usd=balance(0, 50_000_000)),
            stop=1,
            dimension=NANO_USD,
            held_tokens=16_024,
        ),
        "Phase VERIFY has $0.06 left of its cost budget, this call needs more. "
        f"Phase: VERIFY, dimension: nano_usd. {WAY_OUT.format('IMP-COST-01')}",
    ),
    "killed": (
        receipt(Verdict.REFUSED, scope(), stop=0, dimension=None, code="task_killed"),
        f"Task IMP-COST-01 was killed by an operator. Phase: VERIFY. {KILLED.format('IMP-COST-01')}",
    ),
    "parent killed": (
        receipt(
            Verdict.REFUSED,
            scope(),
            scope(ScopeKind.PARENT, "EPIC-9"),
            stop=1,
            dimension=None,
            code="task_killed",
        ),
        f"Task EPIC-9 was killed by an operator. Phase: VERIFY. {KILLED.format('EPIC-9')}",
    ),
    "blocked": (
        receipt(Verdict.REFUSED, scope(), stop=0, dimension=None, code="task_blocked"),
        "Task IMP-COST-01 is blocked until its registration is corrected. Phase: VERIFY. Retrying "
        "will not help. Stop, or ask an operator to register it correctly (POST /admin/v1/tasks).",
    ),
    "no scope": (
        receipt(Verdict.REFUSED, code="", phase=None),
        f"Task - was stopped. Phase: none. {WAY_OUT.format('-')}",
    ),
}


@pytest.mark.parametrize(("seen", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_agent_reads(seen: Receipt, message: str) -> None:
    """The fact with true figures, where it happened, and the way out."""
    assert refusal_message(seen) == message
    assert decide(seen, POLICY, Mode.ENFORCE, 1).message == message


# Phrases that client libraries take for another error, and then compact or retry.
TRAPS = re.compile(
    r"rate[\s_\-]*limit|service tier capacity|context|maximum|string too long|input tokens|"
    r"number of tokens allowed|current length|credit balance|quota|usage limit|content_policy|"
    r"content policy|filtered|safety|cyber_policy|image|overloaded|timed? ?out|max_tokens|"
    r"invalid.api.key|max_new_tokens",
    re.IGNORECASE,
)


def test_no_message_sounds_like_another_error() -> None:
    """No refusal has a phrase that makes an agent compact its context or try again."""
    in_flight = receipt(Verdict.IN_FLIGHT, scope(), stop=0, code="budget_in_flight")
    seen = [*(seen for seen, _ in REFUSALS.values()), in_flight]
    for message in (decide(one, POLICY, Mode.ENFORCE, 1).message for one in seen):
        assert message
        assert TRAPS.search(message) is None, message


@pytest.mark.parametrize(
    ("amount", "dimension", "text"),
    [
        (0, TOKENS, "0"),
        (31_600, TOKENS, "31,600"),
        (245_000, LATENCY, "245s"),
        (1_719_000, LATENCY, "1,719s"),
        (5_030_000_000, NANO_USD, "$5.03"),
        (1_234_500_000_000, NANO_USD, "$1,234.50"),
        (1_000, CALLS, "1,000"),
    ],
)
def test_amounts_for_people(amount: int, dimension: Dimension, text: str) -> None:
    """Each dimension in its unit, with thousands separators."""
    assert format_amount(amount, dimension) == text


def test_SL9_a_task_that_may_complete_is_flagged_above_its_cumulative_line() -> None:
    """It is held to the runaway line, and what it crosses is told all the same."""
    spent = balance(15_000, line=24_000)
    exempt = Scope(ScopeKind.TASK, "T", {TOKENS: spent}, exempt=True)
    decision = decide(held(exempt), POLICY, Mode.ENFORCE, 500)
    assert (decision.outcome, decision.would_refuse) == (Outcome.FLAG, False)
    (breach,) = decision.breaches
    assert (breach.used, breach.line) == (15_000, 14_400)
