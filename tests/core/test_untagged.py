"""CMP-1: calls without a task pass unless a policy says otherwise."""

import pytest

from gateway.core.errors import BadCall
from gateway.core.mark import Mark
from gateway.core.policy import Mode
from gateway.core.untagged import UntaggedCallsPolicy, UntaggedEffect, without_task


def policy(effect: UntaggedEffect) -> UntaggedCallsPolicy:
    return UntaggedCallsPolicy(effect=effect)


@pytest.mark.parametrize(
    ("effect", "mode", "mark"),
    [
        (UntaggedEffect.ALLOW, Mode.ENFORCE, Mark.PASSES),
        (UntaggedEffect.FLAG, Mode.OBSERVE, Mark.FLAGGED),
        (UntaggedEffect.FLAG, Mode.ENFORCE, Mark.FLAGGED),
        (UntaggedEffect.REFUSE, Mode.OBSERVE, Mark.WOULD_REFUSE),
        (UntaggedEffect.FLAG, Mode.OFF, Mark.PASSES),
        (UntaggedEffect.REFUSE, Mode.OFF, Mark.PASSES),
    ],
)
def test_what_the_policy_makes_of_them(effect: UntaggedEffect, mode: Mode, mark: Mark) -> None:
    assert without_task(policy(effect), mode) is mark


def test_where_no_policy_matches_they_pass() -> None:
    assert without_task(None, Mode.ENFORCE) is Mark.PASSES


def test_a_refusal_says_which_header_to_set() -> None:
    with pytest.raises(BadCall, match="Set the header X-Task-Id") as raised:
        without_task(policy(UntaggedEffect.REFUSE), Mode.ENFORCE)
    assert raised.value.code == "tags_required"
