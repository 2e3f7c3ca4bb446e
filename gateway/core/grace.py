"""Grace: one last call after a trip, so that an agent can commit or summarise (GW-14).

Once per episode of a stop, never after a kill, only for a call that asks by `X-Task-Grace: 1`. Its
hold, and what it may put out, are bounded by the policy's allowance. Whether it is admitted is
decided by the reserve (`store/lua/grace.lua`), so that of parallel calls on many gateways one is.
"""

from dataclasses import dataclass

from msgspec import Struct

from gateway.core.policy_base import Mode, Policy
from gateway.core.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class GraceCallPolicy(Policy):
    """A policy of kind `grace_call`. The allowance is for input and output, in budget tokens."""

    name: str = "grace-call"
    allowance_tokens: int = 20_000


class Grace(Vocabulary):
    """What the reserve says of grace, where a trip stops the call.

    OFFERED: it did not ask. SHORT: the allowance does not pay for its input and the least output.
    USED: another call of this episode was admitted. ADMITTED: this one is.
    """

    OFFERED = "offered"
    SHORT = "short"
    USED = "used"
    ADMITTED = "admitted"


class GracePlan(Struct, frozen=True):
    """A policy as it holds for one call. `ceiling` and `least` bound its output, in tokens."""

    asked: bool
    allowance_tokens: int
    ceiling: int
    least: int


def plan_grace(
    policy: GraceCallPolicy | None, mode: Mode, *, asked: bool, ceiling: int, least: int
) -> GracePlan | None:
    """Return what a policy offers, None if nothing: grace is given in enforce mode only."""
    if policy is None or mode is not Mode.ENFORCE:
        return None
    return GracePlan(asked, policy.allowance_tokens, ceiling, min(least, ceiling))


def graced_output(plan: GracePlan, input_tokens: int, output_weight: int) -> int | None:
    """Return up to how many output tokens the call may have; None if the allowance is too small.

    The specification of `store/lua/grace.lua`. `input_tokens` are budget tokens, of which one
    output token counts `output_weight` thousandths.
    """
    room = plan.allowance_tokens - input_tokens
    if room < 0:
        return None
    output = min(plan.ceiling, room * 1000 // output_weight) if output_weight else plan.ceiling
    return output if output >= plan.least else None


def grace_sentence(plan: GracePlan, grace: Grace) -> str:
    """Return what a refusal says of grace, behind all else; empty if there is nothing to say."""
    allowance = f"{plan.allowance_tokens:,} tokens"
    if grace is Grace.OFFERED:
        return (
            f" One last call, of at most {allowance} with its input, is let through with the "
            "header X-Task-Grace: 1, to save the work or sum it up."
        )
    if grace is Grace.SHORT:
        return (
            f" The grace call may have at most {allowance}, this one's input included: shorten it."
        )
    return " The one grace call of this stop has been made." if plan.asked else ""
