"""Which decisions a policy of kind `output_clamp` changes; what it affords is `core/shaping.py`'s."""

from dataclasses import replace

import pytest
from msgspec import structs

from gateway.call import Call
from gateway.clamp import clamped
from gateway.core.admission import Balance, Scope, ScopeKind, Verdict
from gateway.core.budget import Dimension
from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.grace import Grace
from gateway.core.limit_standing import LimitStanding
from gateway.core.output_clamp import OutputClampPolicy
from gateway.core.policy import Mode, PolicySet
from gateway.core.spend_limits import LimitScope, SpendLimit
from gateway.core.windows import Span, Window
from tests.e2e.in_process import ENFORCING, OBSERVING, rules
from tests.test_planner import call_of, plan_of

CLAMPING = replace(
    rules(),
    policies=PolicySet((ENFORCING,), output_clamp=(OutputClampPolicy(mode=Mode.ENFORCE),)),
)
ALLOWED = Decision(Outcome.ALLOW)
ROOM = Balance(10_000, 0, 10_000, 10_000, 20_000, 5_000, 0)
RECEIPT = Receipt(Verdict.HELD, 0, (Scope(ScopeKind.TASK, "T", {Dimension.TOKENS: ROOM}),))


def clamp_of(
    decision: Decision = ALLOWED, receipt: Receipt = RECEIPT, call: Call | None = None
) -> int | None:
    call = call or call_of((b"X-Task-Id", b"T"))
    return clamped(decision, call, plan_of(CLAMPING), receipt).clamp


def test_what_is_left_to_the_line_is_the_ceiling() -> None:
    """Beside the input that is held: 100 tokens here."""
    assert clamp_of() == 4_900


def standing(line: int, *, enforced: bool = True) -> LimitStanding:
    """A key's limit of which 500 tokens are used and 200 are held."""
    limit = SpendLimit(
        "daily", LimitScope.KEY, "k", Span.DAY, "UTC", enforced, {}, {Dimension.TOKENS: line}
    )
    return LimitStanding(limit, Window(), {Dimension.TOKENS: 500}, {Dimension.TOKENS: 200})


@pytest.mark.parametrize(
    ("limits", "output"),
    [
        ((standing(3_000),), 2_200),
        ((standing(9_000), standing(2_000)), 1_200),
        ((standing(99_000),), 4_900),
        ((standing(2_000, enforced=False),), 4_900),
    ],
)
def test_the_tightest_of_all_that_refuse_counts(
    limits: tuple[LimitStanding, ...], output: int
) -> None:
    """The task leaves 4,900; a spend limit that only observes clamps nothing."""
    assert clamp_of(receipt=structs.replace(RECEIPT, limits=limits)) == output


def test_a_spend_limit_clamps_where_the_stop_loss_is_off() -> None:
    off = replace(CLAMPING.policies, stop_loss=(replace(OBSERVING, mode=Mode.OFF),))
    plan = plan_of(replace(CLAMPING, policies=off))
    receipt = structs.replace(RECEIPT, limits=(standing(3_000),))
    assert clamped(ALLOWED, call_of((b"X-Task-Id", b"T")), plan, receipt).clamp == 2_200


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.OFF])
def test_lines_count_while_the_stop_loss_observes(mode: Mode) -> None:
    """Where it is off there are none."""
    stop_loss = replace(OBSERVING, mode=mode)
    in_force = replace(CLAMPING, policies=replace(CLAMPING.policies, stop_loss=(stop_loss,)))
    decision = clamped(ALLOWED, call_of((b"X-Task-Id", b"T")), plan_of(in_force), RECEIPT)
    assert decision.clamp == (4_900 if mode is Mode.OBSERVE else None)


def test_what_is_decided_otherwise_stays() -> None:
    """Refusals, output that is clamped already, and a call that goes on by its allowance."""
    refused = Decision(Outcome.REFUSE, code="task_killed")
    assert clamped(refused, call_of(), plan_of(CLAMPING), RECEIPT) is refused
    assert clamp_of(Decision(Outcome.ALLOW, clamp=7)) == 7
    assert clamp_of(receipt=structs.replace(RECEIPT, grace=Grace.ADMITTED)) is None
    assert clamped(ALLOWED, call_of(), plan_of(rules()), RECEIPT) is ALLOWED


def test_a_request_that_can_state_no_ceiling_stays() -> None:
    """A compaction has none; what is not metered has no body to edit."""
    assert clamp_of(call=call_of(target=b"/v1/responses/compact")) is None
    assert clamp_of(call=call_of(target=b"/v1/moderations")) is None
