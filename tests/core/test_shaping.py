"""How policies shape calls: the affordable output, the soft line, the end of a stream."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import Balance, Effects, Need, Scope, ScopeKind
from gateway.core.budget import Dimension
from gateway.core.dialects.wire_format import ModelRequest
from gateway.core.identity import Tags
from gateway.core.keys import GatewayKey
from gateway.core.mid_stream_stop import MidStreamStopPolicy, stop_message
from gateway.core.model_downgrade import ModelDowngradePolicy, SoftLine
from gateway.core.output_clamp import OutputClampPolicy
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.policy import Effect, Match, Mode, Policy, PolicySet
from gateway.core.shaping import (
    AS_ASKED,
    Shape,
    affordable_output,
    over_soft_line,
    shape_of,
    shapes_calls,
    stop_code,
)
from tests.soak import fuzz

TOKENS, LATENCY, MONEY, CALLS = Dimension
REFUSING = Effects(dict.fromkeys(Dimension, Effect.REFUSE), {TOKENS: Effect.REFUSE})
FLAGGING = Effects(dict.fromkeys(Dimension, Effect.FLAG), {})
TIERS = Complexity.MEDIUM, ImportanceTier.MEDIUM


def balance(settled: int, line: int, held: int = 0, limit: int = 100) -> Balance:
    return Balance(limit, 0, line, line, 2 * line, settled, held)


def task(*, kind: ScopeKind = ScopeKind.TASK, **balances: Balance) -> Scope:
    return Scope(kind, "T", {Dimension(name): each for name, each in balances.items()})


# Output -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "money", "weight", "unit", "output"),
    [
        ((0, 1_000), None, 1_000, 0, 900),
        ((400, 1_000), None, 1_000, 0, 500),
        ((400, 1_000), None, 5_000, 0, 100),
        ((400, 1_000), None, 0, 0, None),
        ((0, 9_999), (0, 1_000), 1_000, 5, 180),
        ((0, 9_999), (0, 1_000), 1_000, 0, None),
        ((0, 2_100), None, 1_000, 0, None),
        ((0, 2_099), None, 1_000, 0, 1_999),
        ((2_000, 1_000), None, 1_000, 0, 64),
    ],
)
def test_the_output_that_is_affordable(
    tokens: tuple[int, int],
    money: tuple[int, int] | None,
    weight: int,
    unit: int,
    output: int | None,
) -> None:
    """What every line leaves beside the input (100 tokens, 100 nano-dollars), 64 at least."""
    scope = task(tokens=balance(*tokens))
    if money is not None:
        scope.balances[MONEY] = balance(*money)
    need = Need(100, 100, 100, 2_000, 0, unit, weight)
    assert affordable_output([scope], REFUSING, need, 2_000, 64) == output


def test_others_holds_and_the_phase_count_too() -> None:
    """A line that only flags does not."""
    need = Need(10, 10, 0, 2_000, 0, 0)
    scopes = [
        task(tokens=balance(0, 1_000, held=300), calls=balance(5, 6)),
        task(kind=ScopeKind.PHASE, tokens=balance(0, 500)),
    ]
    assert affordable_output(scopes, REFUSING, need, 2_000, 1) == 490
    assert affordable_output(scopes[:1], REFUSING, need, 2_000, 1) == 690
    assert affordable_output(scopes, FLAGGING, need, 2_000, 1) is None


def test_a_ceiling_below_the_least_stays() -> None:
    """A clamp lowers, and never raises."""
    need = Need(10, 10, 0, 50, 0, 0)
    assert affordable_output([task(tokens=balance(99, 100))], REFUSING, need, 50, 64) is None


# Soft line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settled", "percent", "over"),
    [(79, 80, False), (80, 80, True), (81, 80, True), (0, 80, False), (119, 120, False)],
)
def test_the_soft_line(settled: int, percent: int, *, over: bool) -> None:
    """Reached at its percentage of the limit; others' holds do not count."""
    scopes = [task(tokens=balance(settled, 120, held=100))]
    assert over_soft_line(scopes, SoftLine(percent)) is over


def test_the_soft_line_of_a_phase_or_of_money() -> None:
    """Where there is no such limit, nothing reaches it."""
    phase = task(kind=ScopeKind.PHASE, tokens=balance(90, 100))
    calm = task(tokens=balance(0, 100), nano_usd=balance(90, 100))
    assert not over_soft_line([calm, phase], SoftLine(80))
    assert over_soft_line([calm, phase], SoftLine(80, of_phase=True))
    assert over_soft_line([calm, phase], SoftLine(80, MONEY))
    assert not over_soft_line([calm], SoftLine(80, of_phase=True))
    assert not over_soft_line([calm], SoftLine(80, CALLS))


# The end of a stream ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "seen", "code"),
    [
        (task(tokens=balance(60, 100)), (40, 0), ""),
        (task(tokens=balance(60, 100)), (41, 0), "task_budget_exceeded"),
        (task(tokens=balance(60, 100)), (141, 0), "runaway_task"),
        (task(nano_usd=balance(60, 100)), (999, 41), "task_budget_exceeded"),
        (task(latency_ms=balance(999, 100), calls=balance(999, 100)), (1, 1), ""),
        (Scope(ScopeKind.TASK, "T", {}, "killed"), (0, 0), "task_killed"),
        (task(kind=ScopeKind.PHASE, tokens=balance(999, 100)), (0, 0), ""),
    ],
)
def test_why_a_stream_would_end(scope: Scope, seen: tuple[int, int], code: str) -> None:
    """What was seen of the call counts; phases, latency and the number of calls do not."""
    assert stop_code([scope], REFUSING, *seen) == code


def test_a_spend_limit_stops_a_stream_too() -> None:
    """After the task's own lines, and not by the number of calls."""
    key = task(kind=ScopeKind.KEY, tokens=balance(60, 100), calls=balance(999, 100))
    calm = task(tokens=balance(0, 1_000))
    assert stop_code([calm, key], FLAGGING, 40, 0) == ""
    assert stop_code([calm, key], FLAGGING, 41, 0) == "spend_limit_exceeded"
    over = task(tokens=balance(90, 100))
    assert stop_code([over, key], REFUSING, 41, 0) == "task_budget_exceeded"


def test_nothing_stops_where_lines_only_flag() -> None:
    """A kill does."""
    scope = task(tokens=balance(999, 100))
    assert stop_code([scope], FLAGGING, 0, 0) == ""
    killed = Scope(ScopeKind.TASK, "T", scope.balances, "killed")
    assert stop_code([killed], FLAGGING, 0, 0) == "task_killed"


def test_what_an_agent_reads() -> None:
    """Whose budget, why, and the way out."""
    said = stop_message("T", "runaway_task", has_parents=False)
    assert said.startswith("Task T exceeded its budget while this answer was on its way: ")
    assert "POST /admin/v1/tasks/T/overrides" in said
    said = stop_message("T", "task_killed", has_parents=True)
    assert said.startswith("Task T, or a task above it, was killed by an operator: ")
    said = stop_message("T", "spend_limit_exceeded", has_parents=True)
    assert said.startswith("Task T is held to a spend limit that was exceeded while ")
    assert said.endswith("ask an operator to raise the limit.")


# Policies to a shape ------------------------------------------------------------------------------


class Asking:
    """A call as policies look at it."""

    key: GatewayKey | None = None
    tags = Tags()

    def __init__(self, *models: str) -> None:
        self.models = models


DOWNGRADE = ModelDowngradePolicy(
    mode=Mode.ENFORCE, models=(("gpt-5-mini", "gpt-5-nano"), ("gpt-5*", "gpt-5-mini"))
)
ALL = PolicySet(
    output_clamp=(OutputClampPolicy(mode=Mode.ENFORCE, min_tokens=500),),
    model_downgrade=(DOWNGRADE,),
    mid_stream_stop=(MidStreamStopPolicy("mid-stream-stop", Mode.ENFORCE),),
)
SHAPED = Shape(500, DOWNGRADE.soft_line, "gpt-5-mini", stops_stream=True)


def mode_of(policy: Policy) -> Mode:
    return policy.mode


def shaped(policies: PolicySet, *models: str, **asked: int) -> Shape:
    return shape_of(policies, TIERS, Asking(*models), ModelRequest("m", **asked), mode_of)


def test_without_such_policies_calls_are_as_asked() -> None:
    """Off unless there is a file."""
    assert not shapes_calls(PolicySet())
    assert shaped(PolicySet(), "gpt-5") == AS_ASKED
    assert shapes_calls(ALL)
    assert shaped(ALL, "gpt-5") == SHAPED


def test_observing_changes_nothing() -> None:
    """Nor does the kill switch, which turns enforcing into observing."""
    seen = shape_of(ALL, TIERS, Asking("gpt-5"), ModelRequest("m"), lambda _: Mode.OBSERVE)
    assert seen == AS_ASKED


def test_only_calls_that_match_are_shaped() -> None:
    """By tiers here."""
    large = Match(complexity=frozenset({Complexity.LARGE}))
    policies = replace(
        ALL,
        output_clamp=(replace(ALL.output_clamp[0], match=large),),
        model_downgrade=(replace(DOWNGRADE, match=large),),
        mid_stream_stop=(replace(ALL.mid_stream_stop[0], match=large),),
    )
    assert shaped(policies, "gpt-5") == AS_ASKED


def test_the_least_output_is_what_the_request_needs() -> None:
    """For each choice at least what the API takes."""
    assert shaped(ALL, "x", least_limit=1_025, choices=2).least_output == 2_050


@pytest.mark.parametrize(
    ("models", "cheaper"),
    [
        (("gpt-5",), "gpt-5-mini"),
        (("gpt-5-mini",), "gpt-5-nano"),
        (("gpt-5-nano",), "gpt-5-mini"),
        (("o3",), ""),
        (("my-deployment", "gpt-5.1"), "gpt-5-mini"),
        (("my-deployment", ""), ""),
    ],
)
def test_the_first_pattern_that_fits_names_the_stand_in(
    models: tuple[str, ...], cheaper: str
) -> None:
    """Without one there is no soft line, and no round trip more."""
    shape = shaped(ALL, *models)
    assert shape.cheaper_model == cheaper
    assert (shape.soft_line is not None) is bool(cheaper)


def test_a_model_does_not_stand_in_for_itself() -> None:
    """A pattern that fits the cheaper one too ends there."""
    policy = ModelDowngradePolicy(models=(("gpt-5*", "gpt-5-mini"),))
    assert policy.cheaper_than(["gpt-5-mini"]) == ""
    assert policy.cheaper_than(["gpt-5-pro"]) == "gpt-5-mini"


@fuzz(60)
@given(
    settled=st.integers(0, 10**6),
    line=st.integers(0, 10**6),
    input_tokens=st.integers(0, 10**5),
    weight=st.integers(1, 9_000),
    ceiling=st.integers(0, 10**6),
)
def test_a_clamped_call_stays_within_its_line(
    settled: int, line: int, input_tokens: int, weight: int, ceiling: int
) -> None:
    """Unless the least that is left to it goes beyond; one that is not clamped does by itself."""
    need = Need(input_tokens, input_tokens, 0, ceiling, 0, 0, weight)
    scopes = [task(tokens=balance(settled, line))]
    output = affordable_output(scopes, REFUSING, need, ceiling, 10)
    used = settled + input_tokens + need.output_tokens(ceiling if output is None else output)
    assert used <= line or output == 10 or (output is None and ceiling <= 10)
