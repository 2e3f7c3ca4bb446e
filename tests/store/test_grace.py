"""GW-14: one last call after a trip, given by the reserve: once, however many ask at once."""

import asyncio
import json
from itertools import product

from msgspec import structs

from gateway.core.admission import Verdict
from gateway.core.budget import Amounts
from gateway.core.decision import Receipt
from gateway.core.grace import Grace, GracePlan, graced_output
from gateway.core.loops import LoopPlan
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.policy import ReserveKind
from gateway.ports import ReservePlan, TaskFacts
from gateway.store.redis_store import RedisStore
from tests.store.agent import NEED, STRICT, Agent, Look, settlement

START = 1_000_000
OFFER = GracePlan(asked=False, allowance_tokens=17_000, ceiling=8_000, least=1_024)
ASKED = structs.replace(OFFER, asked=True)


async def ask(
    agent: Agent, plan: GracePlan = ASKED, **changes: object
) -> tuple[ReservePlan, Receipt]:
    return await agent.reserve("VERIFY", grace=plan, **changes)


async def trip(agent: Agent) -> None:
    """Spend 31,600 of 28,080 tokens, and be refused."""
    await agent.spend(31_600)
    _, receipt = await ask(agent)
    assert (receipt.tripped_now, receipt.grace) == (True, None)


async def test_GW14_one_call_is_let_through_behind_a_trip(agent: Agent, look: Look) -> None:
    """Held, and its output bounded, by the allowance; the audit has it."""
    await trip(agent)
    assert (await ask(agent, OFFER))[1].grace is Grace.OFFERED
    plan, receipt = await ask(agent)
    assert (receipt.verdict, receipt.grace, receipt.output) == (Verdict.HELD, Grace.ADMITTED, 2_000)
    assert (receipt.held_tokens, look.held()[0]) == (17_000, 17_000)
    _, other = await ask(agent)
    assert (other.verdict, other.stop_code) == (Verdict.REFUSED, "task_budget_exceeded")
    assert other.grace is Grace.USED
    await agent.store.settle(settlement(plan, tokens=16_000))
    assert look.settled() == 47_600
    (act,) = [
        fields for _, fields in look.client.xrange(look.keys.ledger) if fields["e"][:4] == "act "
    ]
    told = json.loads(act["d"])
    assert (told["action"], told["details"]["call"]) == ("grace.admit", plan.call_id)
    assert told["details"] == {"call": plan.call_id, "stop": "1", "tokens": "17000"}


async def test_without_a_policy_or_a_trip_there_is_none(agent: Agent) -> None:
    assert (await ask(agent))[1].grace is None
    await trip(agent)
    assert (await agent.reserve("VERIFY"))[1].grace is None
    assert (await ask(agent, kind=ReserveKind.NONE))[1].grace is Grace.ADMITTED


async def test_GW14_of_parallel_calls_on_two_gateways_one_is_let_through(
    agent: Agent, store: RedisStore
) -> None:
    await trip(agent)
    other = RedisStore(store.connection, now_ms=store.now_ms)
    plans = [agent.plan("VERIFY", grace=ASKED) for _ in range(8)]
    receipts = await asyncio.gather(
        *((other if number % 2 else store).reserve(plan) for number, plan in enumerate(plans))
    )
    graces = [receipt.grace for receipt in receipts]
    assert graces.count(Grace.ADMITTED) == 1
    assert graces.count(Grace.USED) == 7


async def test_the_next_episode_has_its_own(agent: Agent) -> None:
    await trip(agent)
    plan, _ = await ask(agent)
    await agent.store.settle(settlement(plan, tokens=16_000))
    grant = Amounts(tokens=30_000)
    await agent.override(Override(OverrideKind.GRANT, "ada", "go on", START, amounts=grant))
    assert (await ask(agent))[1].grace is None
    await agent.spend(40_000)
    assert (await ask(agent))[1].tripped_now
    assert (await ask(agent))[1].grace is Grace.ADMITTED


async def test_one_that_was_never_sent_gives_it_back(agent: Agent) -> None:
    await trip(agent)
    plan, _ = await ask(agent)
    await agent.store.release(plan)
    assert (await ask(agent))[1].grace is Grace.ADMITTED


async def test_what_is_given_back_is_the_grace_of_its_own_episode(agent: Agent) -> None:
    """A call that waited for its connection through the next trip gives back none of that."""
    await trip(agent)
    waiting, _ = await ask(agent)
    await agent.override(Override(OverrideKind.RESUME, "ada", "", 0))
    assert (await ask(agent))[1].tripped_now
    used, receipt = await ask(agent)
    assert receipt.grace is Grace.ADMITTED
    await agent.store.release(waiting)
    assert (await ask(agent))[1].grace is Grace.USED
    await agent.store.release(used)
    assert (await ask(agent))[1].grace is Grace.ADMITTED


async def test_an_allowance_that_is_too_small(agent: Agent) -> None:
    await trip(agent)
    small = structs.replace(ASKED, allowance_tokens=16_023)
    _, receipt = await ask(agent, small)
    assert (receipt.verdict, receipt.grace) == (Verdict.REFUSED, Grace.SHORT)
    heavy = structs.replace(NEED, output_weight=2_000)
    assert (await ask(agent, structs.replace(ASKED, allowance_tokens=17_047), need=heavy))[
        1
    ].grace is Grace.SHORT
    exact = structs.replace(ASKED, allowance_tokens=17_048)
    _, receipt = await ask(agent, exact, need=heavy)
    assert (receipt.grace, receipt.output, receipt.held_tokens) == (Grace.ADMITTED, 1_024, 17_048)


async def test_GW14_what_it_may_put_out_is_the_rule_of_the_core(agent: Agent) -> None:
    """On each side of every edge: no room, the least, the ceiling, output that counts nothing."""
    await trip(agent)
    rooms, weights = (-1, 0, 1_023, 1_024, 1_025, 7_999, 8_001), (0, 1, 999, 1_000, 1_500)
    found: set[Grace | None] = set()
    for room, weight in product(rooms, weights):
        plan = structs.replace(ASKED, allowance_tokens=NEED.input_high + room)
        made, receipt = await ask(agent, plan, need=structs.replace(NEED, output_weight=weight))
        expected = graced_output(plan, NEED.input_high, weight)
        found.add(receipt.grace)
        if expected is None:
            assert (receipt.verdict, receipt.grace) == (Verdict.REFUSED, Grace.SHORT)
        else:
            assert (receipt.grace, receipt.output) == (Grace.ADMITTED, expected)
            await agent.store.release(made)
    assert found == {Grace.SHORT, Grace.ADMITTED}


async def test_where_it_hangs_on_the_input_that_is_counted(agent: Agent, look: Look) -> None:
    """As with any hold in the worst case: nothing happens before the count."""
    await trip(agent)
    before = look.task()
    wide = structs.replace(NEED, input_low=1_000, input_high=16_000)
    _, receipt = await ask(agent, kind=ReserveKind.WORST_CASE, need=wide)
    assert (receipt.verdict, receipt.grace) == (Verdict.COUNT, None)
    assert look.task() == before
    counted = structs.replace(NEED, input_low=4_000, input_high=4_000)
    _, receipt = await ask(agent, kind=ReserveKind.WORST_CASE, need=counted)
    assert (receipt.verdict, receipt.grace, receipt.output) == (Verdict.HELD, Grace.ADMITTED, 8_000)


async def test_never_after_a_kill(agent: Agent, look: Look) -> None:
    await trip(agent)
    look.client.hset(look.keys.task("T"), "state", "killed")
    _, receipt = await ask(agent)
    assert (receipt.stop_code, receipt.grace) == ("task_killed", None)


async def test_other_limits_hold(agent: Agent, look: Look) -> None:
    """A phase that refuses does; the grace is not used up."""
    await trip(agent)
    await agent.spend(30_000, "VERIFY")
    _, receipt = await ask(agent, effects=STRICT)
    assert (receipt.stop_code, receipt.grace) == ("phase_budget_exceeded", None)
    assert (await ask(agent))[1].grace is Grace.ADMITTED


async def test_an_ancestor_that_tripped_gives_one_to_all_its_children(
    agent: Agent, store: RedisStore
) -> None:
    await trip(agent)
    facts = TaskFacts(Complexity.MEDIUM, ImportanceTier.MEDIUM, ("T",))
    one, two = (Agent(store, agent.tenant, name, facts) for name in ("one", "two"))
    assert (await ask(one))[1].grace is Grace.ADMITTED
    assert (await ask(two))[1].grace is Grace.USED


async def test_a_loop_is_a_stop_too(agent: Agent) -> None:
    loop = LoopPlan("loop", "f", 2, 600_000, refuses=True)
    await agent.reserve("PLAN", loop=loop)
    _, stopped = await ask(agent, loop=loop)
    assert (stopped.stop_code, stopped.grace) == ("loop_detected", None)
    assert (await ask(agent, loop=loop))[1].grace is Grace.ADMITTED
    _, again = await ask(agent, loop=loop)
    assert (again.stop_code, again.grace) == ("loop_detected", Grace.USED)


async def test_a_grace_call_is_not_over_by_the_trip_that_it_passes(
    agent: Agent, look: Look
) -> None:
    """But by a kill."""
    await trip(agent)
    plan, _ = await ask(agent)
    assert await agent.store.heartbeat(agent.tenant, [(plan, 0, 0)]) == {}
    look.client.hset(look.keys.task("T"), "state", "killed")
    assert await agent.store.heartbeat(agent.tenant, [(plan, 0, 0)]) == {
        plan.call_id: "task_killed"
    }
