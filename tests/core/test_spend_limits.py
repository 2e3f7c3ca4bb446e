"""Which spend limits hold for a call, which lines were crossed, and what is said of it."""

from dataclasses import dataclass, replace

import pytest

from gateway.core.admission import Effects, Need, Scope, ScopeKind, Verdict, admit
from gateway.core.budget import Amounts, Dimension
from gateway.core.decision import Outcome, Receipt, decide
from gateway.core.identity import Tags
from gateway.core.keys import GatewayKey
from gateway.core.limit_standing import LimitStanding, crossings
from gateway.core.match import CallMatch
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.policy import Match, Mode, Policy, ReserveKind, StopLossPolicy
from gateway.core.spend_limits import (
    MOST_LIMITS,
    LimitScope,
    SpendLimit,
    SpendLimitPolicy,
    limits_on,
)
from gateway.core.windows import Span, Window

TIERS = Complexity.MEDIUM, ImportanceTier.MEDIUM
OBSERVING = StopLossPolicy()
DAY = Window(0, 86_400_000, "2026-11-23", "2026-11-24T00:00:00+01:00")
USD = 1_000_000_000


@dataclass(frozen=True)
class Asked:
    """A call as policies look at it."""

    key: GatewayKey | None
    tags: Tags
    models: tuple[str | None, ...]


CALL = Asked(GatewayKey("ab12cd34", "", "ci", team="search"), Tags(), (None, "gpt 5:mini"))
KEYLESS = Asked(None, Tags(), ("gpt-5",))


def mode_of(policy: Policy) -> Mode:
    return policy.mode


def limits(*policies: SpendLimitPolicy, call: Asked = CALL) -> tuple[SpendLimit, ...]:
    return limits_on(policies, *TIERS, call, "default", mode_of)


@pytest.mark.parametrize(
    ("per", "name", "keyless"),
    [
        (LimitScope.KEY, "ab12cd34", "anonymous"),
        (LimitScope.TEAM, "search", None),
        (LimitScope.TENANT, "default", "default"),
        (LimitScope.MODEL, "gpt%205%3Amini", "gpt-5"),
    ],
)
def test_a_total_is_of_a_key_a_team_the_tenant_or_a_model(
    per: LimitScope, name: str, keyless: str | None
) -> None:
    """A model's name comes from the client: it is made one word without a colon."""
    policy = SpendLimitPolicy(mode=Mode.OBSERVE, per=per, hard=Amounts(tokens=5))
    [limit] = limits(policy)
    assert (limit.kind, limit.name) == (per, name)
    assert [limit.name for limit in limits(policy, call=KEYLESS)] == ([keyless] if keyless else [])


def test_a_team_is_one_word_too() -> None:
    """Keys of windows stand in lists, one space apart (store/lua/limits.lua)."""
    policy = SpendLimitPolicy(mode=Mode.ENFORCE, per=LimitScope.TEAM, hard=Amounts(tokens=5))
    key = GatewayKey("ab12cd34", "", "ci", team="web: search")
    assert [limit.name for limit in limits(policy, call=replace(CALL, key=key))] == [
        "web%3A%20search"
    ]


def test_a_call_without_a_model_is_in_no_model_s_total() -> None:
    policy = SpendLimitPolicy(mode=Mode.ENFORCE, per=LimitScope.MODEL, hard=Amounts(tokens=5))
    assert limits(policy, call=replace(CALL, models=())) == ()


def test_every_policy_that_matches_holds_up_to_eight() -> None:
    off = SpendLimitPolicy("off", Mode.OFF)
    sales = SpendLimitPolicy(
        "s", Mode.ENFORCE, Match(calls=(CallMatch(team=frozenset({"sales"})),))
    )
    many = [SpendLimitPolicy(f"p{at}", Mode.ENFORCE, per=LimitScope.TENANT) for at in range(9)]
    held = limits(off, sales, *many)
    assert [limit.policy for limit in held] == [f"p{at}" for at in range(MOST_LIMITS)]


def test_lines_that_are_not_stated_are_not_looked_at() -> None:
    policy = SpendLimitPolicy(
        "p", Mode.ENFORCE, soft=Amounts(calls=2), hard=Amounts(nano_usd=9, latency_ms=None)
    )
    [limit] = limits(policy)
    assert limit.enforced
    assert limit.soft == {Dimension.CALLS: 2}
    assert limit.hard == {Dimension.NANO_USD: 9}


def standing(
    used: int,
    *,
    enforced: bool = True,
    held: int = 0,
    window: Span = Span.DAY,
    bounds: Window = DAY,
) -> LimitStanding:
    """A key's ten dollars a day, flagged from eight on."""
    limit = SpendLimit(
        "daily",
        LimitScope.KEY,
        "ab12cd34",
        window,
        "Europe/Berlin",
        enforced,
        {Dimension.NANO_USD: 8 * USD, Dimension.TOKENS: 10**9},
        {Dimension.NANO_USD: 10 * USD},
    )
    settled = {Dimension.TOKENS: 50, Dimension.NANO_USD: used, Dimension.CALLS: 1}
    return LimitStanding(limit, bounds, settled, dict.fromkeys(settled, held))


@pytest.mark.parametrize(
    ("used", "enforced", "line", "would_refuse"),
    [
        (8 * USD, True, None, False),
        (8 * USD + 1, True, 8 * USD, False),
        (10 * USD, True, 8 * USD, False),
        (10 * USD + 1, True, 10 * USD, False),
        (10 * USD + 1, False, 10 * USD, True),
    ],
)
def test_a_line_is_crossed_once_more_was_settled(
    used: int, enforced: bool, line: int | None, would_refuse: bool
) -> None:
    crossed = list(crossings([standing(used, enforced=enforced)]))
    assert [(one.line, one.would_refuse) for one in crossed] == (
        [(line, would_refuse)] if line else []
    )


def receipt(verdict: Verdict = Verdict.HELD, **changes: object) -> Receipt:
    scopes = (Scope(ScopeKind.TASK, "T", {}),)
    return Receipt(verdict, 1, scopes, **changes)  # type: ignore[arg-type]


def test_a_soft_line_flags_and_an_observed_hard_one_would_refuse() -> None:
    flagged = decide(receipt(limits=(standing(9 * USD),)), OBSERVING, Mode.OBSERVE, 100)
    assert (flagged.outcome, flagged.would_refuse) == (Outcome.FLAG, False)
    [breach] = flagged.breaches
    assert (breach.scope, breach.name) == (ScopeKind.KEY, "ab12cd34@2026-11-23")
    assert (breach.used, breach.allowed, breach.line) == (9 * USD, 8 * USD, 8 * USD)
    observed = decide(
        receipt(limits=(standing(11 * USD, enforced=False),)), OBSERVING, Mode.OFF, 100
    )
    assert (observed.outcome, observed.would_refuse) == (Outcome.FLAG, True)
    within = decide(receipt(limits=(standing(8 * USD),)), OBSERVING, Mode.OFF, 100)
    assert (within.outcome, within.breaches) == (Outcome.ALLOW, ())


def refused(verdict: Verdict, limit: LimitStanding, code: str, held: int = 0) -> str:
    decision = decide(
        receipt(
            verdict,
            limits=(limit,),
            stop_limit=limit,
            stop_scope=limit.scope,
            stop_dimension=Dimension.NANO_USD,
            stop_code=code,
            held_tokens=held,
        ),
        OBSERVING,
        Mode.ENFORCE,
        100,
    )
    assert (decision.outcome, decision.code) == (Outcome.REFUSE, code)
    return decision.message


def test_a_refusal_names_whose_limit_the_figures_and_when_it_turns_over() -> None:
    assert refused(Verdict.REFUSED, standing(12 * USD), "spend_limit_exceeded") == (
        "Spend limit daily of key ab12cd34 was exceeded for this day (2026-11-23, Europe/Berlin): "
        "cost $12.00 / $10.00 (120%). It turns over at 2026-11-24T00:00:00+01:00; retrying before "
        "will not help. Ask an operator to raise the limit."
    )


def test_a_call_that_does_not_fit_is_told_what_is_left() -> None:
    message = refused(Verdict.SHORT, standing(7 * USD, held=USD), "spend_limit_exceeded", 900)
    assert "has $2.00 left of its cost budget for this day" in message
    assert "this call needs more." in message


def test_a_lifetime_s_refusal_promises_no_turn() -> None:
    limit = standing(12 * USD, window=Span.LIFETIME, bounds=Window())
    message = refused(Verdict.REFUSED, limit, "spend_limit_exceeded")
    assert "was exceeded for good: cost $12.00" in message
    assert "It does not turn over" in message


def test_what_open_calls_hold_of_a_limit_is_retryable() -> None:
    limit = standing(9 * USD, held=2 * USD)
    decision = decide(
        receipt(
            Verdict.IN_FLIGHT,
            limits=(limit,),
            stop_limit=limit,
            stop_scope=limit.scope,
            stop_dimension=Dimension.NANO_USD,
            stop_code="budget_in_flight",
        ),
        OBSERVING,
        Mode.OFF,
        100,
    )
    assert decision.retryable
    assert "ab12cd34@2026-11-23" in decision.message


# admission


@pytest.mark.parametrize(
    ("used", "held", "kind", "verdict"),
    [
        (10 * USD, 0, ReserveKind.EXPECTED, Verdict.HELD),
        (10 * USD + 1, 0, ReserveKind.EXPECTED, Verdict.REFUSED),
        (10 * USD + 1, 0, ReserveKind.NONE, Verdict.REFUSED),
        (10 * USD, 1, ReserveKind.EXPECTED, Verdict.IN_FLIGHT),
        (10 * USD, 1, ReserveKind.NONE, Verdict.HELD),
        (10 * USD - 5, 0, ReserveKind.WORST_CASE, Verdict.SHORT),
    ],
)
def test_an_enforced_limit_is_compared_as_a_task_s_budget_is(
    used: int, held: int, kind: ReserveKind, verdict: Verdict
) -> None:
    """Also where the task itself is compared with nothing, as an untagged call's bucket."""
    task = Scope(ScopeKind.TASK, "-anonymous", {})
    scopes = (task, standing(used, held=held).scope)
    answer = admit(scopes, Effects({}, {}), kind, Need(5, 5, 10, 5, 0, 1))
    assert answer.verdict is verdict
    if verdict in (Verdict.REFUSED, Verdict.SHORT):
        assert answer.code == "spend_limit_exceeded"
