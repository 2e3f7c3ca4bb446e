"""The worked example of the budget arithmetic, row by row, against a real server.

A Medium/medium task: L = 23,400, C = 28,080 (cumulative), 46,800 (runaway). Calls of 15,000 tokens
in and 800 out, enforced, `reserve: expected`.
"""

import asyncio
from dataclasses import replace

import pytest

from gateway.core.admission import Verdict
from gateway.core.budget import Amounts, Dimension, percent
from gateway.core.decision import exceeded_message
from gateway.core.overrides import Override, OverrideKind
from gateway.store.limits import NotEnoughRoom
from tests.store.agent import NOTHING_HELD, OBSERVE, Agent, Look, settlement


def grant(tokens: int, expires_ms: int | None = None) -> Override:
    amounts = Amounts(tokens=tokens)
    return Override(OverrideKind.GRANT, "ann", "nearly done", 1_000_000, expires_ms, amounts)


async def test_the_lines_of_the_example(agent: Agent, look: Look) -> None:
    """Limits are the sum of nine phases, lines are rounded down."""
    await agent.call("IMPLEMENT")
    fields = look.task()
    assert (fields["tokens.L"], fields["tokens.C"], fields["tokens.R"]) == (
        "23400",
        "28080",
        "46800",
    )
    assert (fields["latency_ms.L"], fields["latency_ms.C"]) == ("573000", "687600")


async def test_the_first_call_is_admitted_whatever_it_asks_for(agent: Agent, look: Look) -> None:
    """max_tokens of 128,000 with nothing learned: 2,048 are expected, 17,048 held."""
    plan, receipt = await agent.reserve("IMPLEMENT")
    assert (receipt.verdict, receipt.held_tokens, receipt.output) == (Verdict.HELD, 17_048, 2_048)
    assert look.held() == look.held(scope="IMPLEMENT.") == (17_048, 0, 1, 1)
    assert look.call(plan.call_id)["state"] == "held"


async def test_sequential_in_verify(agent: Agent, look: Look) -> None:
    """Two calls pass, the third is refused and trips, with the figures of SL-4."""
    for _ in range(2):
        assert (await agent.call("VERIFY")).verdict is Verdict.HELD
    receipt = await agent.call("VERIFY")
    assert (receipt.verdict, receipt.stop_code) == (Verdict.REFUSED, "task_budget_exceeded")
    assert (receipt.tripped_now, receipt.episode) == (True, 1)
    scope = receipt.stop_scope
    assert scope is not None
    assert exceeded_message(scope, Dimension.TOKENS, scope.balances[Dimension.TOKENS]) == (
        "Task T exceeded token budget: 31,600 / 23,400 (135%)"
    )
    assert look.held() == NOTHING_HELD
    assert look.task()["trip"] == "tokens"


async def test_sequential_in_implement(agent: Agent, look: Look) -> None:
    """Three calls pass, up to 47,400; the fourth is a runaway task at 203 %."""
    for _ in range(3):
        assert (await agent.call("IMPLEMENT")).verdict is Verdict.HELD
    receipt = await agent.call("IMPLEMENT")
    assert (receipt.verdict, receipt.stop_code) == (Verdict.REFUSED, "runaway_task")
    assert percent(look.settled(), 23_400) == 203
    assert look.task()["trip_code"] == "runaway_task"


async def test_eight_at_once(agent: Agent, look: Look) -> None:
    """Three are admitted, five asked to wait; when the three have settled, those are refused."""
    started = await asyncio.gather(*(agent.reserve("IMPLEMENT") for _ in range(8)))
    admitted = [plan for plan, receipt in started if receipt.verdict is Verdict.HELD]
    waiting = [receipt for _, receipt in started if receipt.verdict is Verdict.IN_FLIGHT]
    assert (len(admitted), len(waiting)) == (3, 5)
    assert {receipt.stop_code for receipt in waiting} == {"budget_in_flight"}
    assert look.held()[0] == 51_144
    assert "trip" not in look.task()
    for plan in admitted:
        await agent.store.settle(settlement(plan))
    assert (await agent.call("IMPLEMENT")).stop_code == "runaway_task"


async def test_those_who_waited_pass_if_less_was_used_than_held(agent: Agent) -> None:
    """`budget_in_flight` is no refusal: asking again may succeed."""
    started = await asyncio.gather(*(agent.reserve("IMPLEMENT") for _ in range(4)))
    for plan, receipt in started:
        if receipt.verdict is Verdict.HELD:
            await agent.store.settle(settlement(plan, 100))
    assert (await agent.call("IMPLEMENT")).verdict is Verdict.HELD


async def test_no_escape_by_another_phase(agent: Agent) -> None:
    """Tripped in VERIFY at 31,600, IMPLEMENT is refused too, and it is the same episode."""
    for _ in range(3):
        await agent.call("VERIFY")
    receipt = await agent.call("IMPLEMENT")
    assert (receipt.verdict, receipt.stop_code) == (Verdict.REFUSED, "task_budget_exceeded")
    assert (receipt.tripped_now, receipt.episode) == (False, 1)


async def test_before_it_has_tripped_another_phase_goes_on(agent: Agent) -> None:
    """At 31,600 a task that never asked in VERIFY is below its runaway line."""
    for _ in range(2):
        await agent.call("VERIFY")
    assert (await agent.call("IMPLEMENT")).verdict is Verdict.HELD


async def test_a_grant_frees(agent: Agent, look: Look) -> None:
    """10,000 more make C = 38,080; the next call passes, and L stays what it was."""
    for _ in range(3):
        await agent.call("VERIFY")
    await agent.override(grant(10_000))
    assert look.number("tokens.C") == 38_080
    assert look.number("tokens.R") == 56_800
    assert look.number("tokens.L") == 23_400
    receipt = await agent.call("VERIFY")
    assert receipt.verdict is Verdict.HELD
    assert receipt.scopes[0].balances[Dimension.TOKENS].allowed == 33_400


async def test_a_grant_that_is_too_small_changes_nothing(agent: Agent, look: Look) -> None:
    """It names what is missing: 31,600 against 28,080 + 3,000 is 520 short."""
    for _ in range(3):
        await agent.call("VERIFY")
    before = look.task()
    with pytest.raises(NotEnoughRoom, match="520 tokens short") as error:
        await agent.override(grant(3_000))
    assert (error.value.dimension, error.value.missing) == (Dimension.TOKENS, 520)
    assert look.task() == before
    assert look.client.llen(look.keys.overrides("T")) == 0
    await agent.override(grant(3_520))
    assert "trip" not in look.task()
    assert (await agent.call("VERIFY")).verdict is Verdict.HELD


async def test_going_back_to_a_phase_is_a_second_execution(agent: Agent, look: Look) -> None:
    """Its usage adds up, its limit does not grow."""
    await agent.call("PLAN", tokens=1_000)
    agent.at(1_030_000)
    await agent.call("REVIEW", tokens=1_000)
    agent.at(1_090_000)
    receipt = await agent.call("PLAN", tokens=1_500)
    assert receipt.execution == 2
    fields = look.task()
    assert (fields["x.PLAN.1.tokens"], fields["x.PLAN.2.tokens"]) == ("1000", "1500")
    assert (fields["x.PLAN.1.started"], fields["x.PLAN.2.started"]) == ("1000000", "1090000")
    assert (fields["PLAN.tokens.S"], fields["PLAN.tokens.L"]) == ("2500", "2400")
    assert (fields["tokens.S"], fields["tokens.L"]) == ("3500", "23400")


async def test_a_gateway_that_died_leaves_a_call_charged_at_its_hold(
    agent: Agent, look: Look
) -> None:
    """After 30 s its lease is over: charged, marked, nothing held any more."""
    plan, _ = await agent.reserve("IMPLEMENT")
    agent.at(1_029_999)
    assert await agent.store.expire_due(agent.tenant) == []
    agent.at(1_030_000)
    assert await agent.store.expire_due(agent.tenant) == [plan.call_id]
    assert look.settled() == look.settled(scope="IMPLEMENT.") == 17_048
    assert look.held() == look.held(scope="IMPLEMENT.") == NOTHING_HELD
    assert look.call(plan.call_id)["state"] == "expired"
    assert (look.number("expired.calls"), look.number("expired.tokens")) == (1, 17_048)


async def test_observing_never_trips(agent: Agent, look: Look) -> None:
    """Effects that only flag hold calls, count them and set no stop-loss."""
    watcher = replace(agent, effects=OBSERVE)
    for _ in range(5):
        assert (await watcher.call("VERIFY")).verdict is Verdict.HELD
    assert look.settled() == 5 * 15_800
    assert not {"trip", "refused", "episode"} & set(look.task())
