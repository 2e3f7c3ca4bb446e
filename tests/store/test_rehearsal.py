"""What a rehearsal takes for the store's answer is the store's: `answer` beside `reserve`."""

import random

from gateway.core.admission import Verdict
from gateway.core.budget import Dimension
from gateway.core.decision import Receipt
from gateway.core.grace import Grace, GracePlan
from gateway.core.loops import LoopPlan
from gateway.core.model_downgrade import SoftLine
from gateway.core.phases import WorkPhase
from gateway.core.policy import ReserveKind
from gateway.core.velocity import RatePlan
from gateway.ports import ReservePlan
from gateway.rehearsal.answer import Standing, answer
from tests.store.agent import Agent, Look, settlement

RATE_MS = 60_000
START = 1_000 * RATE_MS


def made(dice: random.Random, agent: Agent) -> ReservePlan:
    """Return a plan with some of the rules that stand beside the budgets."""
    lines = {Dimension.TOKENS: dice.choice((2_000, 100_000)), Dimension.CALLS: 40}
    refuses = dice.random() < 0.6
    return agent.plan(
        dice.choice(("PLAN", "VERIFY")),
        kind=dice.choice((*ReserveKind, ReserveKind.WORST_CASE)),
        loop=LoopPlan("p", dice.choice("aab"), 4, RATE_MS, refuses),
        rate=RatePlan("r", RATE_MS, dice.random() < 0.7, False, lines),
        grace=GracePlan(dice.random() < 0.6, dice.choice((14_000, 17_000)), 4_000, 1_024)
        if dice.random() < 0.8
        else None,
        soft_line=SoftLine(dice.choice((30, 80, 120))) if dice.random() < 0.4 else None,
        one_phase=dice.random() < 0.3,
    )


def before(receipt: Receipt, fields: dict[str, str]) -> Standing:
    """Return how things stood, as the answer and the task's hash say."""
    task, *others = receipt.scopes
    stop = fields.get("episode") if task.tripped else f"loop{fields.get('loop')}"
    return Standing(
        (task,),
        others[-1] if others else None,
        receipt.limits,
        receipt.rate,
        receipt.loop,
        "loop" in fields,
        fields.get("grace", "") == stop,
        next((phase for phase in WorkPhase if is_at_work(phase, receipt, fields)), None),
    )


def is_at_work(phase: WorkPhase, receipt: Receipt, fields: dict[str, str]) -> bool:
    return phase is not receipt.phase and int(fields.get(f"{phase.value}.inflight") or 0) > 0


async def test_answers_are_those_of_the_script(agent: Agent, look: Look) -> None:
    """Tasks that trip, go in circles, hurry and ask for grace, in every order.

    A look, which changes nothing, is answered as the reserve is.
    """
    dice = random.Random(7)
    verdicts: set[Verdict] = set()
    graces: set[Grace | None] = set()
    codes: set[str] = set()
    for number in range(300):
        if number % 12 == 0:
            agent.task = f"T-{number}"
            now_ms = START
        agent.at(now_ms := now_ms + dice.choice((1, 5_000, 20_000)))
        await agent.spend(
            dice.choice((1, 1, 3_000, 12_000, 50_000)), dice.choice(("PLAN", "VERIFY"))
        )
        plan, fields = made(dice, agent), look.task(agent.task)
        stored = look.everything() if number % 25 == 0 else None
        looked = await agent.store.look(plan)
        assert stored is None or look.everything() == stored
        receipt = await agent.store.reserve(plan)
        assert told(looked) == told(receipt)
        expected = answer(plan, before(receipt, fields), receipt.now_ms)
        assert told(receipt) == told(expected), (number, fields, plan)
        if receipt.verdict is Verdict.HELD and dice.random() < 0.8:
            await agent.store.settle(settlement(plan, tokens=dice.choice((1, 5_000))))
        verdicts.add(receipt.verdict)
        graces.add(receipt.grace)
        codes.add(receipt.stop_code)
    assert verdicts == set(Verdict) - {Verdict.COUNT}
    assert graces == {None, *Grace}
    assert {"loop_detected", "velocity_exceeded", "task_budget_exceeded", "runaway_task"} <= codes


def told(receipt: Receipt) -> tuple[object, ...]:
    held = receipt.output if receipt.verdict is Verdict.HELD else None
    waits = receipt.parallel_phase if receipt.verdict is Verdict.IN_FLIGHT else None
    return receipt.verdict, receipt.stop_code, receipt.stop_dimension, receipt.grace, held, waits
