"""Calls that name no task: let through, flagged or refused (CMP-1).

Unless a policy says otherwise they pass: they count in a bucket of their gateway key, and no task's
rules ever refuse them.
"""

from dataclasses import dataclass

from gateway.core.errors import BadCall
from gateway.core.mark import Mark
from gateway.core.policy_base import Mode, Policy
from gateway.core.vocabulary import Vocabulary


class UntaggedEffect(Vocabulary):
    """What a call without a task comes to."""

    ALLOW = "allow"
    FLAG = "flag"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class UntaggedCallsPolicy(Policy):
    """A policy of kind `untagged_calls`."""

    name: str = "untagged-calls"
    effect: UntaggedEffect = UntaggedEffect.ALLOW


def without_task(policy: UntaggedCallsPolicy | None, mode: Mode) -> Mark:
    """Return how a call without a task is marked where `policy` acts in `mode`.

    Raises BadCall (`tags_required`) where the policy refuses in enforce mode.
    """
    if policy is None or mode is Mode.OFF or policy.effect is UntaggedEffect.ALLOW:
        return Mark.PASSES
    if policy.effect is UntaggedEffect.FLAG:
        return Mark.FLAGGED
    if mode is Mode.OBSERVE:
        return Mark.WOULD_REFUSE
    raise BadCall(
        "tags_required",
        f"This call names no task, and policy {policy.name} requires one. Retrying as it is will "
        "not help. Set the header X-Task-Id to the id of the task that you work on (letters, "
        "digits, dots, underscores, hyphens), or put /t/<task>/- in front of the path.",
    )
