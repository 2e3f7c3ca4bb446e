"""GW-14: what one last call may have, and what a refusal says of it."""

import pytest

from gateway.core.grace import (
    Grace,
    GraceCallPolicy,
    GracePlan,
    grace_sentence,
    graced_output,
    plan_grace,
)
from gateway.core.policy import Mode

PLAN = GracePlan(asked=True, allowance_tokens=5_000, ceiling=8_000, least=1_024)


def test_grace_is_given_in_enforce_mode_only() -> None:
    policy = GraceCallPolicy(allowance_tokens=9)

    def plan(policy: GraceCallPolicy | None, mode: Mode) -> GracePlan | None:
        return plan_grace(policy, mode, asked=True, ceiling=7, least=8)

    assert plan(policy, Mode.ENFORCE) == GracePlan(True, 9, ceiling=7, least=7)
    assert plan(policy, Mode.OBSERVE) is plan(policy, Mode.OFF) is None
    assert plan(None, Mode.ENFORCE) is None


@pytest.mark.parametrize(
    ("input_tokens", "weight", "output"),
    [
        (1_000, 1_000, 4_000),
        (1_000, 2_000, 2_000),
        (1_000, 0, 8_000),
        (1_000, 1, 8_000),
        (3_976, 1_000, 1_024),
        (3_977, 1_000, None),
        (5_001, 0, None),
    ],
)
def test_the_allowance_bounds_input_and_output_together(
    input_tokens: int, weight: int, output: int | None
) -> None:
    assert graced_output(PLAN, input_tokens, weight) == output


def test_a_refusal_says_how_to_ask_and_why_it_was_not_given() -> None:
    unasked = GracePlan(False, 5_000, 8_000, 1_024)
    assert "X-Task-Grace: 1" in grace_sentence(unasked, Grace.OFFERED)
    assert "5,000 tokens" in grace_sentence(PLAN, Grace.SHORT)
    assert "has been made" in grace_sentence(PLAN, Grace.USED)
    assert grace_sentence(unasked, Grace.USED) == ""
