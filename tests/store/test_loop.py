"""GW-13: loops are counted and stopped by the reserve, whatever gateway it comes from."""

import msgspec
import pytest

from gateway.core.admission import Verdict
from gateway.core.decision import Receipt
from gateway.core.loops import LoopPlan, LoopStanding, growing_after, repeats_of
from gateway.core.overrides import Override, OverrideKind
from gateway.core.usage import Usage
from gateway.ports import ReservePlan
from gateway.store.redis_store import RedisStore
from gateway.store.task_view import StopState
from gateway.store.tasks import read_task
from tests.store.agent import NOTHING_HELD, Agent, Look, settlement

START = 1_000_000
PLAN = LoopPlan("loop", "f", 20, 600_000, refuses=True)


async def ask(agent: Agent, plan: LoopPlan = PLAN, phase: str = "PLAN") -> Receipt:
    """Make a small call to its end."""
    made, receipt = await agent.reserve(phase, loop=plan)
    if receipt.verdict is Verdict.HELD:
        await agent.store.settle(settlement(made, tokens=10))
    return receipt


def flagging(**changes: object) -> LoopPlan:
    return msgspec.structs.replace(PLAN, refuses=False, **changes)


async def test_GW13_a_loop_of_20_identical_calls_stops_the_task(agent: Agent, look: Look) -> None:
    """Nothing is held; every call behind it is refused, whatever it asks, until an operator looks."""
    receipts = [await ask(agent) for _ in range(19)]
    assert [receipt.verdict for receipt in receipts] == [Verdict.HELD] * 19
    assert receipts[-1].loop == LoopStanding(19)
    twentieth = await ask(agent)
    assert (twentieth.verdict, twentieth.stop_code) == (Verdict.REFUSED, "loop_detected")
    assert twentieth.loop == LoopStanding(20, stopped_now=True)
    assert look.held() == NOTHING_HELD
    other = msgspec.structs.replace(PLAN, fingerprint="g")
    agent.at(START + 3_600_000)
    later = await ask(agent, other, phase="PR")
    assert (later.stop_code, later.loop) == ("loop_detected", LoopStanding(1))
    assert look.number("refused") == 2
    assert look.number("episode") == 0
    acts = [fields for _, fields in look.client.xrange(look.keys.ledger) if "d" in fields]
    told = [fields["d"] for fields in acts if fields["e"].startswith("act ")]
    assert ["task.loop" in text and "20 times within 600s" in text for text in told] == [True]


@pytest.mark.parametrize("kind", [OverrideKind.RESUME, OverrideKind.GRANT])
async def test_GW13_an_override_frees_it(agent: Agent, look: Look, kind: OverrideKind) -> None:
    """Counting begins anew."""
    for _ in range(20):
        await ask(agent)
    names = agent.store.keys(agent.tenant)
    view = await read_task(agent.store.connection, names, "T", START)
    stop = view.summary.stop_loss
    assert (stop.state, stop.code, stop.since_ms) == (StopState.TRIPPED, "loop_detected", START)
    await agent.override(Override(kind, "ada", "looked at it", START))
    view = await read_task(agent.store.connection, names, "T", START)
    assert view.summary.stop_loss.state is StopState.OK
    assert (await ask(agent)).loop == LoopStanding(1)


async def test_a_policy_that_only_flags_lets_a_stopped_task_go_on(agent: Agent) -> None:
    for _ in range(20):
        await ask(agent)
    receipt = await ask(agent, flagging())
    assert (receipt.verdict, receipt.loop) == (Verdict.HELD, LoopStanding(20))
    assert (await ask(agent)).stop_code == "loop_detected"


async def test_other_requests_and_old_ones_do_not_count(agent: Agent, look: Look) -> None:
    plan = flagging(calls=2, window_ms=60_000)
    other = flagging(calls=2, window_ms=60_000, fingerprint="g")
    assert (await ask(agent, plan)).loop == LoopStanding(1)
    assert (await ask(agent, other)).loop == LoopStanding(1)
    agent.at(START + 59_999)
    assert (await ask(agent, plan)).loop == LoopStanding(2)
    agent.at(START + 60_000)
    assert (await ask(agent, plan)).loop == LoopStanding(2)
    agent.at(START + 120_000)
    assert (await ask(agent, plan)).loop == LoopStanding(1)
    assert 0 < look.client.pttl(look.keys.task("T") + ":loop") <= 60_000


async def test_GW13_repeats_are_those_of_the_core(agent: Agent) -> None:
    """Two requests by turns, at times within, on and beyond the edge of the window."""
    made: list[tuple[int, str]] = []
    steps = (0, 0, 1, 299_999, 300_000, 1, 599_999, 600_000, 600_001, 0, 150_000, 449_999, 1)
    now_ms, counted = START, set()
    for number, step_ms in enumerate(steps):
        now_ms += step_ms
        agent.at(now_ms)
        for fingerprint in ("f", "g") if number % 3 else ("f",):
            expected = repeats_of(fingerprint, made, now_ms, PLAN.window_ms)
            receipt = await ask(agent, flagging(calls=100, fingerprint=fingerprint))
            assert receipt.loop == LoopStanding(expected)
            made.append((now_ms, fingerprint))
            counted.add(expected)
    assert {1, 2, 3, 4} <= counted


async def test_what_is_kept_is_bounded(agent: Agent, look: Look) -> None:
    for number in range(103):
        await ask(agent, flagging(calls=2, fingerprint=f"f{number}"))
    assert look.client.llen(look.keys.task("T") + ":loop") == 100


async def test_only_calls_that_were_sent_count(agent: Agent, store: RedisStore) -> None:
    """One that is refused, or given back before it was sent, is no repetition."""
    plan, receipt = await agent.reserve("PLAN", loop=PLAN)
    assert receipt.loop == LoopStanding(1)
    await store.release(plan)
    assert (await ask(agent)).loop == LoopStanding(1)
    await agent.spend(60_000)
    for _ in range(3):
        assert (await ask(agent)).stop_code == "runaway_task"


async def test_at_a_gate_nothing_is_counted(agent: Agent) -> None:
    """It asks whether the task was stopped."""
    gate = msgspec.structs.replace(PLAN, fingerprint="")
    await ask(agent)

    def asked() -> ReservePlan:
        return agent.plan("VERIFY", loop=gate)

    receipt = await agent.store.gate(asked())
    assert (receipt.verdict, receipt.loop) == (Verdict.HELD, LoopStanding(0))
    for _ in range(19):
        await ask(agent)
    assert (await agent.store.gate(asked())).stop_code == "loop_detected"


async def test_a_request_that_says_nothing_is_no_repetition(agent: Agent, look: Look) -> None:
    """It is stopped by the loop of others, for it is of the same task."""
    silent = msgspec.structs.replace(PLAN, fingerprint="")
    for _ in range(25):
        receipt = await ask(agent, silent)
        assert (receipt.verdict, receipt.loop) == (Verdict.HELD, LoopStanding(0))
    assert look.client.llen(look.keys.task("T") + ":loop") == 0
    for _ in range(20):
        await ask(agent)
    assert (await ask(agent, silent)).stop_code == "loop_detected"


async def test_GW13_growing_context_with_little_output(agent: Agent, look: Look) -> None:
    """Counted as calls settle, by the rule of the core."""
    plan = flagging(growing_calls=2, growing_output_tokens=50)
    growing = last = 0
    for input_, output in ((100, 10), (200, 49), (300, 10), (300, 10), (400, 50), (500, 1)):
        made, receipt = await agent.reserve("PLAN", loop=plan)
        assert receipt.loop is not None
        assert receipt.loop.growing == growing
        usage = Usage(input_total=input_, cached_read=50, output_total=output)
        await agent.store.settle(settlement(made, tokens=input_ + output, usage=usage))
        growing, last = growing_after(growing, last, input_, output, plan), input_
        assert look.number("growing.calls") == growing
    assert growing == 1
