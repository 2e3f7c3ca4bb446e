"""History under other rules: the same rules decide the same, others as they are documented to."""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from gateway.core.acts import Act, Verb
from gateway.core.admission import Verdict
from gateway.core.budget import Amounts, TaskLimits, TaskProfile, task_limits
from gateway.core.call_facts import CallAbout, CallOutcome
from gateway.core.configuration import DataPlane, Rules
from gateway.core.decision import effects_of
from gateway.core.keys import GatewayKey
from gateway.core.loops import LoopPolicy
from gateway.core.overrides import Override, OverrideKind
from gateway.core.parallel_phases import ParallelPhases
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.policy import Mode, PolicySet, StopLossPolicy
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.spend_limits import LimitScope, SpendLimitPolicy, limits_on
from gateway.core.velocity import RatePolicy, plan_rate
from gateway.core.windows import Span
from gateway.ledger.past import History
from gateway.ports import ReservePlan, TaskFacts
from gateway.rehearsal.backtest import Backtest, Replay, Sources
from gateway.rehearsal.past_task import TaskThen
from gateway.rule_files import load_policies
from gateway.store.keys import facts_from_text
from gateway.store.limits import NotEnoughRoom
from gateway.store.steering import steer_task
from tests.ledger.desk import Desk
from tests.store.agent import Agent, budgets, settlement

ROLLOUT = Path(__file__).parents[2] / "policies" / "rollout"
ENFORCING = StopLossPolicy(mode=Mode.ENFORCE)
FREE = PriceTable({"m": ModelPrice(0, 0, 0, 0)})
PHASES = ("PLAN", "IMPLEMENT", "VERIFY", "REVIEW", "PR")


@pytest.fixture
def desk(connection: Any, tenant: str, tmp_path: Path) -> Desk:
    return Desk(tenant, connection, f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def agent(store: Any, tenant: str) -> Agent:
    made = Agent(store, tenant)
    made.at(1_000_000_000)
    return made


def about(agent: Agent, key: str = "") -> CallAbout:
    tiers = agent.facts
    return CallAbout(
        model="m",
        complexity=tiers.complexity.value,
        importance=tiers.importance.value,
        path="/v1/chat/completions",
        key=key,
    )


async def end(agent: Agent, plan: ReservePlan, tokens: int) -> None:
    outcome = CallOutcome(decision="allow", source="provider", priced=True)
    await agent.store.settle(settlement(plan, tokens, tokens * 10, outcome=outcome))


async def played(desk: Desk, policies: PolicySet, **others: Any) -> Backtest:
    """Play what the desk's ledger has; the keys are called as they are."""
    await desk.written()
    with desk.connect() as connection:
        history = History(connection, desk.tenant)

        def task_of(name: str) -> TaskThen:
            known = history.task(name)
            assert known is not None
            limits = known.snapshot and msgspec.json.decode(known.snapshot, type=TaskLimits)
            return TaskThen(name, facts_from_text(known.facts), limits or None)

        sources = Sources(task_of, narrow_key, history.inherited)
        rules = Rules(budgets(), policies, FREE)
        replay = Replay(DataPlane("", tenant=desk.tenant), rules, sources, **others)
        return await replay.play(history.events())


def refused(result: Backtest) -> Counter[tuple[bool, bool]]:
    """Calls by whether they were refused then, and are now."""
    found: Counter[tuple[bool, bool]] = Counter()
    for (then, now), calls in result.then_now.items():
        found[then == "refuse", now == "refuse"] += calls
    return found


LIMITS = (
    SpendLimitPolicy(
        mode=Mode.ENFORCE, window=Span.HOUR, per=LimitScope.KEY, hard=Amounts(tokens=15_000)
    ),
    SpendLimitPolicy("all", Mode.ENFORCE, per=LimitScope.TENANT, hard=Amounts(calls=90)),
)
RATE = RatePolicy(mode=Mode.ENFORCE, window_s=300, limits=Amounts(tokens=9_000))


@pytest.mark.parametrize("one_phase", [False, True])
async def test_GW17_the_same_rules_decide_the_same(
    agent: Agent, desk: Desk, *, one_phase: bool
) -> None:
    """Calls side by side, parents, trips, grants, kills, velocity and spend limits in one run."""
    dice = random.Random(17)
    open_calls: list[ReservePlan] = []
    rate = plan_rate(RATE, Mode.ENFORCE)
    now_ms = int(agent.store.now_ms)
    await agent.spend(1, "PLAN")
    for _ in range(160):
        now_ms += dice.choice((10, 2_000, 30_000, 400_000))
        agent.at(now_ms)
        agent.task = dice.choice(("T", "U", "V", "W"))
        agent.facts = TaskFacts(
            Complexity.MEDIUM, ImportanceTier.MEDIUM, ("T",) if agent.task == "V" else ()
        )
        await steer(agent, desk, dice)
        key = dice.choice(("k7dm2xq9", "a1b2c3d4"))
        limits = limits_on(LIMITS, *_TIERS, _Payer(key), desk.tenant, lambda policy: policy.mode)
        plan = agent.plan(
            dice.choice(PHASES),
            about=about(agent, key),
            rate=rate,
            spend=limits,
            one_phase=one_phase,
        )
        receipt = await agent.store.reserve(plan)
        if receipt.verdict is Verdict.HELD:
            open_calls.append(plan)
        while open_calls and dice.random() < 0.7:
            await end(agent, open_calls.pop(0), dice.choice((10, 900, 3_000, 9_000)))
    for plan in open_calls:
        await end(agent, plan, 10)
    policy = replace(ENFORCING, parallel_phases=ParallelPhases.REFUSE) if one_phase else ENFORCING
    policies = PolicySet(stop_loss=(policy,), spend_limit=LIMITS, rate=(RATE,))
    result = await played(desk, policies)
    counted = refused(result)
    assert counted[True, False] == counted[False, True] == 0
    assert counted[True, True] > 20
    assert counted[False, False] > 40
    codes = {group.code for group in result.groups if group.decision == "refuse"}
    wanted = {"task_budget_exceeded", "velocity_exceeded", "spend_limit_exceeded", "task_killed"}
    assert wanted <= codes


_TIERS = Complexity.MEDIUM, ImportanceTier.MEDIUM


def narrow_key(key: str) -> GatewayKey:
    """A key as it is by now, which would let none of these calls say what they said then."""
    return GatewayKey(key, "", key, may_set=(), models=("none",), upstreams=("none",))


class _Payer:
    """A call of a key, as spend limits look at it."""

    def __init__(self, key: str) -> None:
        self.key = GatewayKey(key, "", key)
        self.tags, self.models, self.tenant = None, ("m",), "default"


async def steer(agent: Agent, desk: Desk, dice: random.Random) -> None:
    """Now and then somebody grants tokens, kills the task, or frees it."""
    now_ms = int(agent.store.now_ms)
    if not await desk.store.execute("EXISTS", desk.keys.task(agent.task)):
        return
    if dice.random() < 0.06:
        expires = dice.choice((None, now_ms + 500_000))
        grant = Override(OverrideKind.GRANT, "ann", "r", now_ms, expires, Amounts(tokens=20_000))
        with suppress(NotEnoughRoom):
            await agent.override(grant)
    if dice.random() < 0.05:
        factor = Override(OverrideKind.MULTIPLIER, "ann", "r", now_ms, factor=Decimal("1.5"))
        with suppress(NotEnoughRoom):
            await agent.override(factor)
    verb = Verb.KILL if dice.random() < 0.04 else Verb.RESUME if dice.random() < 0.2 else None
    if verb is not None:
        act = Act(f"task.{verb.value}", "ann", "r")
        await steer_task(desk.store, desk.keys, agent.task, verb, act, now_ms=str(now_ms))


@pytest.mark.parametrize(
    ("week", "refuses", "would"),
    [
        ("week1", [], ["low", "medium", "high", "critical"]),
        ("week2", ["low", "medium"], ["high", "critical"]),
        ("week3", ["low", "medium", "high", "critical"], []),
    ],
)
async def test_ROL1_PM1_the_presets_on_one_recorded_run(
    agent: Agent, desk: Desk, week: str, refuses: list[str], would: list[str]
) -> None:
    """What was observed decides what enforcing would have refused, tier by tier."""
    agent.effects = effects_of(StopLossPolicy(), Mode.OBSERVE)
    for tier in ImportanceTier:
        agent.task, agent.facts = tier.value, TaskFacts(Complexity.MEDIUM, tier)
        agent.limits = task_limits(budgets(), TaskProfile(Complexity.MEDIUM, tier))
        limit = next(iter(agent.limits.task_lines.values())).limit
        for phase, tokens in (("IMPLEMENT", 20_000), ("VERIFY", 9_000), ("VERIFY", 1), ("PR", 1)):
            plan, _ = await agent.reserve(phase, about=about(agent))
            await end(agent, plan, tokens * limit // 23_400)
    result = await played(desk, load_policies(ROLLOUT / week))
    assert len(result.tasks) == 4

    def tiers(chosen: Callable[[Any], bool]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for group, one in result.groups.items():
            if chosen(group):
                found[group.importance] += one.calls
        return dict(found)

    assert tiers(lambda group: group.decision == "refuse") == dict.fromkeys(refuses, 2)
    assert tiers(lambda group: group.would_refuse) == dict.fromkeys(would, 2)
    assert sorted(result.stops) == sorted(refuses)
    for stop in result.stops.values():
        assert (stop.phase, stop.code) == ("VERIFY", "task_budget_exceeded")


async def test_what_is_refused_uses_nothing(agent: Agent, desk: Desk) -> None:
    """Under half the budget a task stops early, and what came behind it never happened."""
    agent.effects = effects_of(StopLossPolicy(), Mode.OBSERVE)
    for _ in range(5):
        plan, _ = await agent.reserve("VERIFY", about=about(agent))
        await end(agent, plan, 8_000)
    strict = StopLossPolicy("strict", Mode.ENFORCE)
    result = await played(desk, PolicySet(stop_loss=(strict,)))
    [stop] = result.stops.values()
    assert (stop.task, stop.tokens) == ("T", 32_000)  # 28,080 is the line
    saved = [one for group, one in result.groups.items() if group.decision == "refuse"]
    assert [(one.calls, one.tokens, one.nano_usd) for one in saved] == [(1, 8_000, 80_000)]


async def test_a_task_that_may_complete_is_let_through(agent: Agent, desk: Desk) -> None:
    """As SL-9 says; without that its PR would be refused."""
    limits = task_limits(budgets(), TaskProfile())
    low = replace(limits.stop_loss, cumulative_token_threshold=Decimal("1.01"))
    agent.limits = task_limits(replace(budgets(), stop_loss=low), TaskProfile())
    for phase, tokens in (("REVIEW", 20_000), ("PR", 4_000), ("PR", 10)):
        plan, receipt = await agent.reserve(phase, about=about(agent))
        assert receipt.verdict is Verdict.HELD
        await end(agent, plan, tokens)
        agent.at(int(agent.store.now_ms) + 100_000)
    result = await played(desk, PolicySet(stop_loss=(ENFORCING,)))
    assert refused(result) == {(False, False): 3}


async def test_calls_without_a_task_and_kinds_that_are_left_out(agent: Agent, desk: Desk) -> None:
    plan = agent.plan(about=about(agent), task="-anonymous", limits=None)
    await agent.store.reserve(plan)
    await end(agent, plan, 10)
    policies = PolicySet(stop_loss=(ENFORCING,), loop=(LoopPolicy(mode=Mode.ENFORCE),))
    result = await played(desk, policies)
    assert result.left_out == ["loop"]
    assert (result.tasks, sum(one.calls for one in result.groups.values())) == (set(), 1)


async def test_a_period(agent: Agent, desk: Desk) -> None:
    """Calls of that period alone; what was before is not counted."""
    for number in range(4):
        agent.at(1_000_000_000 + number * 1_000)
        plan, _ = await agent.reserve("PLAN", about=about(agent))
        await end(agent, plan, 10)
    await desk.written()
    with desk.connect() as connection:
        history = History(connection, desk.tenant)
        begun = [one for one in history.events(1_000_001_000, 1_000_003_000)]
    assert [structs.asdict(one)["started_ms"] for one in begun] == [1_000_001_000, 1_000_002_000]
