"""What policies beside the budgets add to a decision."""

import pytest
from msgspec.structs import replace

from gateway.core.admission import Scope, ScopeKind, Verdict
from gateway.core.amendments import amended, marked
from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.grace import Grace, GracePlan
from gateway.core.loops import LoopPlan, LoopStanding
from gateway.core.mark import Mark

ALLOW = Decision(Outcome.ALLOW)
RECEIPT = Receipt(Verdict.HELD, 0, (Scope(ScopeKind.TASK, "T", {}),), output=500)
REFUSAL = Decision(Outcome.REFUSE, code="task_budget_exceeded", message="Stopped.")
GRACE = GracePlan(asked=True, allowance_tokens=5_000, ceiling=800, least=1)
LOOP = LoopPlan("loop", "f", 3, 600_000, would_refuse=True)


def test_most_calls_have_nothing_beside() -> None:
    assert amended(ALLOW, RECEIPT) is ALLOW
    assert amended(ALLOW, RECEIPT, grace=GRACE) is ALLOW
    assert amended(ALLOW, RECEIPT, loop=LOOP) is ALLOW


@pytest.mark.parametrize(
    ("mark", "outcome", "would_refuse"),
    [
        (Mark.PASSES, Outcome.ALLOW, False),
        (Mark.FLAGGED, Outcome.FLAG, False),
        (Mark.WOULD_REFUSE, Outcome.FLAG, True),
    ],
)
def test_a_mark_shows(mark: Mark, outcome: Outcome, would_refuse: bool) -> None:
    decision = amended(ALLOW, RECEIPT, mark)
    assert (decision.outcome, decision.would_refuse) == (outcome, would_refuse)
    assert decision == marked(ALLOW, mark)


def test_what_would_be_refused_already_stays_so() -> None:
    assert marked(Decision(Outcome.FLAG, would_refuse=True), Mark.FLAGGED).would_refuse


def test_a_refusal_stays_what_it_is() -> None:
    refusal = Decision(Outcome.REFUSE, code="task_killed")
    assert marked(refusal, Mark.WOULD_REFUSE) is refusal


def test_a_loop_flags_or_words_the_refusal() -> None:
    receipt = replace(RECEIPT, loop=LoopStanding(3))
    decision = amended(ALLOW, receipt, loop=LOOP)
    assert (decision.outcome, decision.would_refuse) == (Outcome.FLAG, True)
    refusal = Decision(Outcome.REFUSE, code="loop_detected", message="?")
    assert "goes in circles" in amended(refusal, receipt, loop=LOOP).message


def test_a_grace_call_is_flagged_and_clamped() -> None:
    """To what the allowance pays for, if that is less than the call asks for."""
    receipt = replace(RECEIPT, grace=Grace.ADMITTED)
    decision = amended(ALLOW, receipt, grace=GRACE)
    assert (decision.outcome, decision.clamp) == (Outcome.FLAG, 500)
    receipt = replace(receipt, output=800)
    assert amended(ALLOW, receipt, grace=GRACE).clamp is None


def test_a_refusal_speaks_of_grace() -> None:
    receipt = replace(RECEIPT, grace=Grace.OFFERED)
    message = amended(REFUSAL, receipt, grace=GRACE).message
    assert message.startswith("Stopped. One last call")
