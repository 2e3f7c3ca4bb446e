"""What policies beside the budgets add to a decision: marks, grace, loops."""

from msgspec import structs

from gateway.core.decision import Decision, Outcome, Receipt
from gateway.core.grace import Grace, GracePlan, grace_sentence
from gateway.core.loops import CODE, LoopPlan, loop_mark, loop_message
from gateway.core.mark import Mark


def amended(
    decision: Decision,
    receipt: Receipt,
    mark: Mark = Mark.PASSES,
    grace: GracePlan | None = None,
    loop: LoopPlan | None = None,
) -> Decision:
    """Return a decision with what the call's other plans say of it; most calls have none."""
    if mark is not Mark.PASSES:
        decision = marked(decision, mark)
    if loop is not None:
        decision = _with_loop(decision, receipt, loop)
    if grace is not None and receipt.grace is not None:
        decision = _with_grace(decision, receipt, grace, receipt.grace)
    return decision


def marked(decision: Decision, mark: Mark) -> Decision:
    """Return a decision with a mark; a refusal stays what it is."""
    if mark is Mark.PASSES or decision.refuses:
        return decision
    would_refuse = decision.would_refuse or mark is Mark.WOULD_REFUSE
    return structs.replace(decision, outcome=Outcome.FLAG, would_refuse=would_refuse)


def _with_loop(decision: Decision, receipt: Receipt, plan: LoopPlan) -> Decision:
    if decision.code == CODE:
        return structs.replace(decision, message=loop_message(receipt.scopes[0].name, plan))
    return decision if receipt.loop is None else marked(decision, loop_mark(plan, receipt.loop))


def _with_grace(decision: Decision, receipt: Receipt, plan: GracePlan, grace: Grace) -> Decision:
    """Return a refusal that speaks of grace, or a grace call flagged, its output clamped."""
    if decision.refuses:
        return structs.replace(decision, message=decision.message + grace_sentence(plan, grace))
    clamp = receipt.output if receipt.output < plan.ceiling else None
    return structs.replace(decision, outcome=Outcome.FLAG, clamp=clamp)
