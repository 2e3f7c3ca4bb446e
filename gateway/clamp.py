"""Step 5, decide: what a receipt comes to by the call's plan.

`clamped` is for calls for which a policy of kind `output_clamp` is in force.
"""

from msgspec import structs

from gateway.call import Call
from gateway.core.amendments import amended
from gateway.core.decision import Decision, Receipt, decide, effects_of
from gateway.core.policy import Mode
from gateway.core.shaping import affordable_output
from gateway.planner import Plan


def decision_on(call: Call | None, plan: Plan, receipt: Receipt) -> Decision:
    """Return the decision on what the store answered."""
    decision = decide(receipt, plan.policy, plan.mode, plan.ceiling, plan.unpriced)
    decision = amended(decision, receipt, plan.mark, plan.reserve.grace, plan.reserve.loop)
    if plan.shape.least_output is not None and call is not None:
        decision = clamped(decision, call, plan, receipt)
    return decision


def clamped(decision: Decision, call: Call, plan: Plan, receipt: Receipt) -> Decision:
    """Return the decision with the output's ceiling lowered to what the call's lines pay for.

    The lines are those that the stop-loss would refuse at, even while it only observes, and the
    hard ones of spend limits in enforce mode: the tightest counts. A request that cannot state a
    ceiling is left as it is, and so is one that is clamped already, or goes on by grace: its
    allowance is its ceiling.
    """
    least = plan.shape.least_output
    if least is None or decision.refuses or decision.clamp is not None or receipt.grace is not None:
        return decision
    if call.wire is None or call.asked is None:
        return decision
    lines = effects_of(plan.policy, Mode.OFF if plan.mode is Mode.OFF else Mode.ENFORCE)
    limits = (standing.scope for standing in receipt.limits if standing.limit.enforced)
    scopes = (*receipt.scopes, *limits)
    output = affordable_output(scopes, lines, plan.reserve.need, plan.ceiling, least)
    if output is None or not call.wire.clamped(call.request.body, call.asked, output):
        return decision
    return structs.replace(decision, clamp=output)
