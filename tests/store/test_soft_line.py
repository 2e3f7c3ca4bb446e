"""The soft line of `reserve`: from there on nothing is held, the call is to be planned anew."""

import random

import pytest
from msgspec import structs

from gateway.core.admission import Verdict
from gateway.core.budget import Dimension
from gateway.core.model_downgrade import SoftLine
from gateway.core.shaping import over_soft_line
from tests.store.agent import LIMITS_WITH_MONEY, NOTHING_HELD, Agent, Look

MONEY = Dimension.NANO_USD
TASK_TOKENS, PHASE_TOKENS = 23_400, 2_400  # Medium/medium, PLAN


@pytest.mark.parametrize(
    ("line", "settled", "verdict"),
    [
        (SoftLine(80), TASK_TOKENS * 8 // 10 - 1, Verdict.HELD),
        (SoftLine(80), TASK_TOKENS * 8 // 10, Verdict.SOFT),
        (SoftLine(150), 35_099, Verdict.HELD),
        (SoftLine(150), 35_100, Verdict.SOFT),
        (SoftLine(80), 46_801, Verdict.REFUSED),
        (SoftLine(50, of_phase=True), PHASE_TOKENS // 2 - 1, Verdict.HELD),
        (SoftLine(50, of_phase=True), PHASE_TOKENS // 2, Verdict.SOFT),
        (SoftLine(1, MONEY), 20_000, Verdict.HELD),
        (None, 20_000, Verdict.HELD),
    ],
)
async def test_GW15_from_the_soft_line_on_nothing_is_held(
    agent: Agent, look: Look, line: SoftLine | None, settled: int, verdict: Verdict
) -> None:
    """Unless the call is refused anyway; the answer shows the balances."""
    await agent.spend(settled, "PLAN")
    plan, receipt = await agent.reserve("PLAN", soft_line=line)
    assert receipt.verdict is verdict
    assert receipt.scopes[0].balances[Dimension.TOKENS].settled == settled
    if verdict is Verdict.SOFT:
        assert look.held() == NOTHING_HELD
        again = await agent.store.reserve(structs.replace(plan, soft_line=None))
        assert again.verdict is Verdict.HELD


async def test_GW15_a_soft_line_in_money(agent: Agent) -> None:
    """Of a task that has such a limit."""
    agent.limits = LIMITS_WITH_MONEY
    limit = LIMITS_WITH_MONEY.task_lines[MONEY].limit
    line = SoftLine(60, MONEY)
    await agent.spend(1, nano_usd=limit * 6 // 10 - 1)
    assert (await agent.reserve("PLAN", soft_line=line))[1].verdict is Verdict.HELD
    await agent.spend(1, nano_usd=1)
    assert (await agent.reserve("PLAN", soft_line=line))[1].verdict is Verdict.SOFT


@pytest.mark.parametrize("of_phase", [False, True])
async def test_the_script_agrees_with_its_specification(agent: Agent, *, of_phase: bool) -> None:
    """`over_soft_line` over the balances that the same answer shows, around every percentage."""
    dice = random.Random(7)
    settled = 0
    for _ in range(60):
        more = dice.choice((1, 2, 117, 600))
        settled += more
        await agent.spend(more, "PLAN")
        limit = PHASE_TOKENS if of_phase else TASK_TOKENS
        percent = max(1, settled * 100 // limit + dice.choice((0, 1)))
        line = SoftLine(percent, of_phase=of_phase)
        plan, receipt = await agent.reserve("PLAN", soft_line=line)
        assert (receipt.verdict is Verdict.SOFT) is over_soft_line(receipt.scopes, line)
        await agent.store.release(plan)
