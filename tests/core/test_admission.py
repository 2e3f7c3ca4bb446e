"""The rules of admission, one at a time; the store's script is held to them elsewhere."""

import pytest
from msgspec.structs import replace

from gateway.core.admission import (
    Admission,
    Balance,
    Effects,
    Need,
    Scope,
    ScopeKind,
    Verdict,
    admit,
    first_stop,
    is_held_to_line,
    may_complete,
)
from gateway.core.budget import Dimension
from gateway.core.phases import WorkPhase
from gateway.core.policy import Effect, ReserveKind

TOKENS, LATENCY, MONEY, CALLS = Dimension
EXPECTED, WORST_CASE, NONE = ReserveKind
REFUSING = Effects(dict.fromkeys(Dimension, Effect.REFUSE), dict.fromkeys(Dimension, Effect.REFUSE))
FLAGGING = Effects(dict.fromkeys(Dimension, Effect.FLAG), dict.fromkeys(Dimension, Effect.FLAG))
NEED = Need(15_000, 15_000, 0, 2_048, 1_024, 0)


def balance(
    settled: int, held: int = 0, line: int = 28_080, *, cumulative: int = 28_080
) -> Balance:
    return Balance(23_400, 0, line, cumulative, 46_800, settled, held)


def task(tokens: Balance | None = None, **others: Balance) -> Scope:
    balances = {} if tokens is None else {TOKENS: tokens}
    return Scope(ScopeKind.TASK, "T", balances | {Dimension[k]: v for k, v in others.items()})


def parent(tokens: Balance) -> Scope:
    return Scope(ScopeKind.PARENT, "P", {TOKENS: tokens})


def phase(tokens: Balance) -> Scope:
    return Scope(ScopeKind.PHASE, "PLAN", {TOKENS: tokens})


# Balances ---------------------------------------------------------------------------------------


def test_a_balance_tells_what_is_allowed_and_what_is_left() -> None:
    """Allowed is L + G; room is C - S - H and may be negative."""
    made = Balance(100, 20, line=140, cumulative=140, runaway=220, settled=90, held=60)
    assert made.allowed == 120
    assert made.room == -10


def test_a_line_is_breached_above_it_only() -> None:
    """S == C is within."""
    assert not balance(28_080).breached
    assert balance(28_081).breached


def test_a_trip_holds_while_the_total_is_above_the_cumulative_line() -> None:
    """Not without its flag, not once freed, and not in a dimension that has no limit."""
    above = task(balance(31_600, line=46_800))
    assert not above.tripped
    assert replace(above, trip_dimension=TOKENS).tripped
    assert not replace(above, trip_dimension=MONEY).tripped
    assert not replace(task(balance(28_080)), trip_dimension=TOKENS).tripped


@pytest.mark.parametrize(
    ("weight", "output", "tokens"),
    [(1000, 7, 7), (1500, 7, 11), (1, 1, 1), (0, 9, 0), (333, 3, 1), (1000, 0, 0)],
)
def test_output_counts_by_its_weight_rounded_up(weight: int, output: int, tokens: int) -> None:
    """A started thousandth is a whole budget token."""
    assert replace(NEED, output_weight=weight).output_tokens(output) == tokens


# Rule 1: state ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(ReserveKind))
def test_an_unspent_task_admits_what_is_larger_than_its_line(kind: ReserveKind) -> None:
    """A is no part of rule 1; only worst case lowers the output to what is left."""
    need = replace(NEED, output=128_000)
    admission = admit([task(balance(0))], REFUSING, kind, need)
    output = 28_080 - 15_000 if kind is WORST_CASE else 128_000
    assert admission == Admission(Verdict.HELD, output=output)


@pytest.mark.parametrize("kind", list(ReserveKind))
def test_a_breached_task_refuses(kind: ReserveKind) -> None:
    """Whatever is reserved, rule 1 is asked first."""
    scopes = [task(balance(31_600))]
    refused = Admission(Verdict.REFUSED, scopes[0], TOKENS, "task_budget_exceeded")
    assert admit(scopes, REFUSING, kind, NEED) == refused


def test_what_only_flags_is_let_through() -> None:
    """Flagging and unknown effects compare nothing."""
    scopes = [task(balance(99_999)), parent(balance(99_999)), phase(balance(99_999))]
    for effects in (FLAGGING, Effects({}, {})):
        for kind in ReserveKind:
            assert admit(scopes, effects, kind, NEED).verdict is Verdict.HELD


def test_above_the_runaway_line_it_is_called_runaway() -> None:
    """For a task or an ancestor, before any other breach; a phase has no such line."""
    mine, up, here = task(balance(28_081)), parent(balance(46_801)), phase(balance(99_999))
    assert first_stop([mine, up, here], REFUSING) == Admission(
        Verdict.REFUSED, up, TOKENS, "runaway_task"
    )
    assert first_stop([task(balance(0)), here], REFUSING) == Admission(
        Verdict.REFUSED, here, TOKENS, "phase_budget_exceeded"
    )


def test_a_task_is_named_before_its_ancestors_and_its_phase() -> None:
    """Task, parents, phase; each under its own code."""
    mine, up, here = task(balance(28_081)), parent(balance(28_081)), phase(balance(28_081))
    free = task(balance(0))
    assert first_stop([mine, up, here], REFUSING).scope is mine  # type: ignore[union-attr]
    assert first_stop([free, up, here], REFUSING).scope is up  # type: ignore[union-attr]
    assert first_stop([free, here], REFUSING).scope is here  # type: ignore[union-attr]
    assert first_stop([free], REFUSING) is None


def test_a_tripped_task_refuses_before_its_runaway_line_is_reached() -> None:
    """The cumulative line holds for every phase once the stop-loss has tripped."""
    scope = replace(
        task(balance(31_600, line=46_800)),
        trip_dimension=TOKENS,
        trip_code="task_budget_exceeded",
    )
    refused = Admission(Verdict.REFUSED, scope, TOKENS, "task_budget_exceeded")
    assert admit([scope], REFUSING, EXPECTED, NEED) == refused
    assert admit([scope], FLAGGING, EXPECTED, NEED).verdict is Verdict.HELD


def test_killed_goes_before_blocked_and_both_before_figures() -> None:
    """They refuse in any mode, with no dimension."""
    blocked = replace(task(balance(99_999)), state="blocked")
    killed = replace(parent(balance(0)), state="killed")
    for effects in (REFUSING, Effects({}, {})):
        assert first_stop([blocked, killed], effects) == Admission(
            Verdict.REFUSED, killed, code="task_killed"
        )
        assert first_stop([blocked], effects) == Admission(
            Verdict.REFUSED, blocked, code="task_blocked"
        )


# Rule 2: in flight ------------------------------------------------------------------------------


def test_open_calls_that_may_use_the_rest_put_off_a_call() -> None:
    """S <= C < S + H; at S + H == C there is no reason to wait."""
    waiting = task(balance(20_000, held=8_081))
    put_off = Admission(Verdict.IN_FLIGHT, waiting, TOKENS, "budget_in_flight")
    for kind in (EXPECTED, WORST_CASE):
        assert admit([waiting], REFUSING, kind, NEED) == put_off
    assert admit([waiting], REFUSING, NONE, NEED).verdict is Verdict.HELD
    assert admit([waiting], FLAGGING, EXPECTED, NEED).verdict is Verdict.HELD
    full = task(balance(20_000, held=8_080))
    assert admit([full], REFUSING, EXPECTED, NEED).verdict is Verdict.HELD


# Rule 4: worst case -----------------------------------------------------------------------------


def worst(scopes: list[Scope], need: Need = NEED) -> Admission:
    return admit(scopes, REFUSING, WORST_CASE, need)


def test_worst_case_pays_for_as_much_output_as_the_tightest_line_leaves() -> None:
    """The lowest of all lines, in output tokens, is the output that is held."""
    scopes = [task(balance(10_000)), parent(balance(11_000)), phase(balance(11_032))]
    assert worst(scopes) == Admission(Verdict.HELD, output=2_048)
    scopes[2] = phase(balance(11_500))
    assert worst(scopes) == Admission(Verdict.HELD, output=1_580)


def test_worst_case_refuses_less_than_what_makes_sense() -> None:
    """Below the least useful output: short, or later if open calls hold something."""
    least = task(balance(28_080 - 15_000 - 1_024))
    assert worst([least]) == Admission(Verdict.HELD, output=1_024)
    short = task(balance(28_080 - 15_000 - 1_023))
    assert worst([short]) == Admission(Verdict.SHORT, short, TOKENS, "task_budget_exceeded")
    here = phase(balance(28_080 - 15_000 - 1_023))
    assert worst([here]) == Admission(Verdict.SHORT, here, TOKENS, "phase_budget_exceeded")
    later = task(balance(28_080 - 15_000 - 1_024, held=1))
    assert worst([later]) == Admission(Verdict.IN_FLIGHT, later, TOKENS, "budget_in_flight")


def test_worst_case_asks_for_a_count_only_where_counting_could_help() -> None:
    """Between the input's bounds the decision hangs; outside it does not."""
    loose = replace(NEED, input_low=5_000)
    assert worst([task(balance(0))], loose) == Admission(Verdict.HELD, output=2_048)
    assert worst([task(balance(13_080))], loose) == Admission(Verdict.COUNT)  # 0 to 10,000 left
    assert worst([task(balance(22_056))], loose) == Admission(Verdict.COUNT)  # at best 1,024
    assert worst([task(balance(22_057))], loose).verdict is Verdict.SHORT


def test_a_count_is_not_asked_for_where_another_line_decides() -> None:
    """Where no call is left, the number of input tokens makes no difference."""
    loose = replace(NEED, input_low=5_000)
    calls = Balance(10, 0, 10, 10, 20, 10, 0)
    scope = task(balance(13_080), CALLS=calls)
    assert worst([scope], loose).verdict is Verdict.SHORT


def test_bounds_are_compared_in_weighted_output() -> None:
    """Where an output token counts half, slack in the input is worth twice as much output."""
    half = replace(NEED, input_low=14_400, output_weight=500)
    assert worst([task(balance(13_080))], half) == Admission(Verdict.COUNT)
    assert worst([task(balance(13_168))], half) == Admission(Verdict.COUNT)  # at best 1,024
    assert worst([task(balance(13_169))], half).verdict is Verdict.SHORT


def test_output_that_counts_nothing_needs_no_room() -> None:
    """With weight 0 only the input must fit."""
    free = replace(NEED, output_weight=0)
    assert worst([task(balance(13_080))], free) == Admission(Verdict.HELD, output=2_048)
    over = task(balance(13_081))
    assert worst([over], free) == Admission(Verdict.SHORT, over, TOKENS, "task_budget_exceeded")


def money(settled: int) -> Scope:
    return task(NANO_USD=Balance(1_000, 0, 1_200, 1_200, 2_000, settled, 0))


def test_money_pays_for_output_after_the_input() -> None:
    """What is left after the input, divided by the price of an output token."""
    dear = Need(10, 10, 300, 50, 20, unit_nano_usd=10)
    assert worst([money(400)], dear) == Admission(Verdict.HELD, output=50)
    assert worst([money(405)], dear) == Admission(Verdict.HELD, output=49)
    assert worst([money(701)], dear).verdict is Verdict.SHORT


def test_the_input_alone_must_be_paid_for() -> None:
    """Where output is free, as with embeddings, the input's price still counts."""
    free_output = Need(10, 10, 300, 50, 20, unit_nano_usd=0)
    assert worst([money(900)], free_output) == Admission(Verdict.HELD, output=50)
    assert worst([money(901)], free_output).verdict is Verdict.SHORT


def test_money_too_may_hang_on_the_count() -> None:
    """An input token costs at most what an output token costs."""
    loose = Need(5, 15, 300, 50, 20, unit_nano_usd=10)
    assert worst([money(750)], loose) == Admission(Verdict.COUNT)  # 15 to 25 left
    assert worst([money(801)], loose).verdict is Verdict.SHORT  # 9 to 19


def test_the_last_call_is_admitted_whole() -> None:
    """A limit on calls has room for a call or has not; latency is never held."""
    one_left = Balance(10, 0, 10, 10, 20, 9, 0)
    late = Balance(10, 0, 10, 10, 20, 10, 0)
    assert worst([task(CALLS=one_left)]) == Admission(Verdict.HELD, output=2_048)
    none_left = task(CALLS=replace(one_left, settled=10))
    assert worst([none_left]).verdict is Verdict.SHORT
    assert worst([task(LATENCY_MS=late)]) == Admission(Verdict.HELD, output=2_048)


# Completion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "review_closed", "lines", "allowed"),
    [
        ("PR", True, {TOKENS: 100}, True),
        ("MONITOR", True, {TOKENS: 100}, True),
        ("PR", True, {TOKENS: 99}, False),
        ("PR", False, {TOKENS: 100}, False),
        ("REVIEW", True, {TOKENS: 100}, False),
        (None, True, {TOKENS: 100}, False),
        ("PR", True, {}, False),
        ("PR", True, {TOKENS: 100, Dimension.NANO_USD: 5}, True),
    ],
)
def test_SL9_a_task_that_is_nearly_done_is_let_through(
    phase: str | None, review_closed: bool, lines: dict[Dimension, int], allowed: bool
) -> None:
    """At its line it may, a unit above it not; a dimension without a limit is left out."""
    spent = task(Balance(90, 0, 110, 110, 200, 100, 0))
    found = may_complete(
        WorkPhase(phase) if phase else None, spent, lines, review_closed=review_closed
    )
    assert found is allowed


# The line that holds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("enforce_from", "phase", "is_held"),
    [
        (WorkPhase.VERIFY, WorkPhase.IMPLEMENT, False),
        (WorkPhase.VERIFY, WorkPhase.VERIFY, True),
        (WorkPhase.VERIFY, None, True),
        (None, WorkPhase.STRATEGIZE, True),
    ],
)
def test_only_a_phase_before_the_first_that_enforces_is_let_go_on(
    enforce_from: WorkPhase | None, phase: WorkPhase | None, is_held: bool
) -> None:
    """A call without a phase is held to the cumulative line."""
    assert is_held_to_line(enforce_from, phase) is is_held


# Phases -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(ReserveKind))
def test_EC10_a_phase_waits_for_another_one_s_calls(kind: ReserveKind) -> None:
    """However little is held; what refuses comes first."""
    waiting = [task(balance(0)), phase(balance(0))]
    put_off = Admission(Verdict.IN_FLIGHT, waiting[1], code="budget_in_flight")
    assert admit(waiting, REFUSING, kind, NEED, parallel=True) == put_off
    assert admit(waiting, REFUSING, kind, NEED).verdict is Verdict.HELD
    over = [task(balance(28_081)), phase(balance(0))]
    assert admit(over, REFUSING, kind, NEED, parallel=True).code == "task_budget_exceeded"
