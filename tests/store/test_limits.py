"""Overrides in the store: in force with the next call everywhere, until their time is over."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from gateway.core.admission import Verdict
from gateway.core.budget import (
    Amounts,
    Dimension,
    TaskBudgetOverrides,
    TaskProfile,
    task_limits,
)
from gateway.core.errors import StoreError
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import WorkPhase
from gateway.store.keys import TenantKeys
from gateway.store.limits import (
    NotEnoughRoom,
    UnknownTask,
    apply_override,
    decode_override,
    encode_override,
    read_history,
    refresh_limits,
    server_ms,
)
from gateway.store.redis_store import RedisStore
from tests.store.agent import FACTS, OBSERVE, STRICT, Agent, Look, budgets, settlement

TOKENS, LATENCY, MONEY, CALLS = Dimension
NOW = 1_000_000


def override(kind: str, until: int | None = None, **fields: object) -> Override:
    return Override(OverrideKind(kind), "ann", "because", NOW, until, **fields)  # type: ignore[arg-type]


def grant(until: int | None = None, **amounts: int) -> Override:
    return override("grant", until, amounts=Amounts(**amounts))


def plan_limit(until: int | None = None, **amounts: int) -> Override:
    return override("phase_limit", until, amounts=Amounts(**amounts), phase=WorkPhase.PLAN)


EXAMPLES = [
    grant(tokens=5, latency_ms=6, nano_usd=7),
    plan_limit(until=2**50, tokens=9),
    override("multiplier", factor=Decimal("1.25")),
    override("resume"),
]


# History ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.kind.value)
def test_an_override_survives_its_encoding(example: Override) -> None:
    """One line of JSON, nothing lost."""
    text = encode_override(example)
    assert decode_override(text) == example
    assert "\n" not in text


async def test_a_history_is_the_snapshot_and_all_overrides_in_order(agent: Agent) -> None:
    """With the version that a change must be made from."""
    profile = TaskProfile(
        overrides=TaskBudgetOverrides({WorkPhase.PR: Amounts(tokens=8)}, Decimal("1.5"))
    )
    limits = task_limits(budgets("0.02"), profile)
    agent = replace(agent, limits=limits)
    await agent.call("PLAN", tokens=1)
    for example in EXAMPLES:
        await agent.override(example)
    history = await read_history(agent.store.connection, TenantKeys(agent.tenant), "T")
    assert history.snapshot == limits
    assert history.overrides == EXAMPLES
    assert history.version == "4"


@pytest.mark.parametrize("change", [grant(tokens=1), None])
async def test_an_unknown_task_cannot_be_changed(
    agent: Agent, look: Look, change: Override | None
) -> None:
    """Nor is it created; a hash that only counts what children used is no task yet."""
    keys = TenantKeys(agent.tenant)

    async def put() -> None:
        if change is None:
            await refresh_limits(agent.store.connection, keys, "T")
        else:
            await agent.override(change)

    with pytest.raises(UnknownTask, match="there is no task T"):
        await put()
    assert look.task() == {}
    await replace(agent, task="child", facts=replace(FACTS, parents=("T",))).call("PLAN")
    with pytest.raises(UnknownTask):
        await put()


async def test_a_task_that_goes_away_meanwhile_is_not_made_anew(agent: Agent, look: Look) -> None:
    """Between reading its history and changing it."""
    await agent.call("PLAN", tokens=1)
    changed = Meanwhile(agent, lambda: look.client.delete(look.keys.task("T")))
    with pytest.raises(UnknownTask):
        await changed.apply(grant(tokens=1))
    assert look.task() == {}


class Meanwhile:
    """Somebody else, who acts between reading a history and each script that follows."""

    def __init__(self, agent: Agent, act: Callable[[], object]) -> None:
        self._agent, self._act = agent, act
        self._run = agent.store.connection.run

    async def _late_run(self, *args: object) -> object:
        self._act()
        return await self._run(*args)  # type: ignore[arg-type]

    async def apply(self, change: Override) -> None:
        with self:
            await self._agent.override(change)

    def __enter__(self) -> None:
        self._agent.store.connection.run = self._late_run  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        self._agent.store.connection.run = self._run  # type: ignore[method-assign]


async def test_two_operators_at_once_both_get_through(agent: Agent, look: Look) -> None:
    """A change made from an old version is computed anew; nobody's is lost."""
    await agent.call("PLAN", tokens=1)
    await asyncio.gather(*(agent.override(grant(tokens=10**at)) for at in range(5)))
    assert look.number("tokens.G") == 11_111
    assert look.number("version") == 5
    assert look.client.llen(look.keys.overrides("T")) == 5


async def test_limits_that_never_stand_still_are_given_up(agent: Agent, look: Look) -> None:
    """After some attempts the operator is told."""
    await agent.call("PLAN", tokens=1)
    busy = Meanwhile(agent, lambda: look.client.hincrby(look.keys.task("T"), "version", 1))
    with pytest.raises(StoreError, match="keep changing") as error:
        await busy.apply(grant(tokens=1))
    assert error.value.reason == "conflict"
    assert look.number("tokens.G") == 0


# Grants ----------------------------------------------------------------------------------------


async def test_grants_are_in_both_lines_and_in_no_limit(agent: Agent, look: Look) -> None:
    """C and R go up, L stays; in every dimension that has a limit."""
    await agent.call("PLAN", tokens=1)
    await agent.override(grant(tokens=600, latency_ms=400, nano_usd=9))
    fields = look.task()
    assert [fields[f"tokens.{letter}"] for letter in "LGCR"] == ["23400", "600", "28680", "47400"]
    assert [fields[f"latency_ms.{letter}"] for letter in "LGC"] == ["573000", "400", "688000"]
    assert "nano_usd.G" not in fields
    assert fields["PLAN.tokens.L"] == "2400"


async def test_a_grant_must_leave_no_breach_in_its_own_dimensions(agent: Agent) -> None:
    """What it does not grant, it need not free."""
    strict = replace(agent, effects=STRICT)
    await strict.reserve("PR")
    agent.at(NOW + 700_000)
    await strict.override(grant(tokens=1))
    with pytest.raises(NotEnoughRoom) as error:
        await strict.override(grant(tokens=1, latency_ms=12_399))
    assert (error.value.dimension, error.value.missing) == (LATENCY, 1)
    await strict.override(grant(latency_ms=12_400))


async def test_a_second_breach_after_a_grant_is_a_second_episode(agent: Agent, look: Look) -> None:
    """Each episode trips once, and names its remediation by its number."""
    await agent.spend(30_000)
    first = await agent.call("VERIFY")
    await agent.override(grant(tokens=5_000))
    assert not {"trip", "trip_code", "trip_ms"} & set(look.task())
    await agent.call("VERIFY")
    second = [await agent.call("VERIFY") for _ in range(2)]
    assert (first.tripped_now, first.episode) == (True, 1)
    assert [(receipt.tripped_now, receipt.episode) for receipt in second] == [(True, 2), (False, 2)]
    assert look.number("episode") == 2


async def test_a_grant_to_an_ancestor_frees_its_children(agent: Agent) -> None:
    """With their next call."""
    up = replace(agent, task="up")
    await up.spend(30_000)
    child = replace(agent, facts=replace(FACTS, parents=("up",)))
    assert (await child.call("VERIFY")).verdict is Verdict.REFUSED
    await up.override(grant(tokens=10_000))
    assert (await child.call("VERIFY")).verdict is Verdict.HELD


# Other kinds -----------------------------------------------------------------------------------


async def test_a_phase_limit_changes_the_phase_and_the_total(agent: Agent, look: Look) -> None:
    """Absolute; the lines follow."""
    await agent.call("PLAN", tokens=1)
    await agent.override(plan_limit(tokens=10_000))
    fields = look.task()
    assert (fields["PLAN.tokens.L"], fields["PLAN.tokens.C"]) == ("10000", "15000")
    assert (fields["tokens.L"], fields["tokens.C"]) == ("31000", "37200")


async def test_a_multiplier_changes_every_limit_and_ends_a_trip(agent: Agent, look: Look) -> None:
    """If that makes enough room."""
    await agent.spend(31_600)
    await agent.call("VERIFY")
    await agent.override(override("multiplier", factor=Decimal("1.1")))
    assert look.number("tokens.C") == 30_888
    assert look.task()["trip"] == "tokens"
    await agent.override(override("multiplier", factor=Decimal("1.5")))
    assert look.number("tokens.C") == 42_120
    assert "trip" not in look.task()
    assert (await agent.call("VERIFY")).verdict is Verdict.HELD


async def test_a_resume_ends_a_trip_and_changes_no_limit(agent: Agent, look: Look) -> None:
    """Earlier phases go on to the runaway line; where the cumulative line holds, the next call
    is a new episode.
    """
    await agent.spend(31_600)
    await agent.call("VERIFY")
    await agent.override(override("resume"))
    assert "trip" not in look.task()
    assert look.number("tokens.C") == 28_080
    assert (await agent.call("IMPLEMENT", tokens=10)).verdict is Verdict.HELD
    receipt = await agent.call("VERIFY")
    assert (receipt.tripped_now, receipt.episode) == (True, 2)


# The end of an override ------------------------------------------------------------------------


async def test_an_override_ends_by_itself(agent: Agent, look: Look) -> None:
    """The first call after its time finds the old limits, on whatever gateway."""
    await agent.spend(30_000)
    await agent.override(grant(until=NOW + 500, tokens=5_000))
    await agent.override(grant(until=NOW + 900, tokens=100))
    agent.at(NOW + 499)
    _, receipt = await agent.reserve("VERIFY", effects=OBSERVE)
    assert receipt.scopes[0].balances[TOKENS].granted == 5_100
    agent.at(NOW + 500)
    _, receipt = await agent.reserve("VERIFY")
    assert receipt.verdict is Verdict.REFUSED
    assert receipt.scopes[0].balances[TOKENS].granted == 100
    assert look.number("expires") == NOW + 900
    agent.at(NOW + 900)
    _, receipt = await agent.reserve("VERIFY")
    assert receipt.scopes[0].balances[TOKENS].granted == 0
    assert "expires" not in look.task()
    assert look.client.llen(look.keys.overrides("T")) == 2


async def test_an_override_of_an_ancestor_ends_for_its_children_too(
    agent: Agent, look: Look
) -> None:
    """Though nobody calls for the ancestor itself."""
    await replace(agent, task="top").call("PLAN", tokens=1)
    up = replace(agent, task="up", facts=replace(FACTS, parents=("top",)))
    await up.spend(30_000)
    await up.override(grant(until=NOW + 500, tokens=5_000))
    await replace(agent, task="top").override(grant(until=NOW + 500, tokens=50_000))
    child = replace(agent, facts=replace(FACTS, parents=("up", "top")))
    assert (await child.call("VERIFY", tokens=1)).verdict is Verdict.HELD
    agent.at(NOW + 500)
    receipt = await child.call("VERIFY", tokens=1)
    assert receipt.verdict is Verdict.REFUSED
    assert receipt.stop_scope is not None
    assert receipt.stop_scope.name == "up"
    assert look.number("tokens.G", "up") == look.number("tokens.G", "top") == 0


async def test_a_limit_that_was_there_by_override_only_goes_with_it(
    agent: Agent, look: Look
) -> None:
    """A money limit for one phase of a task that has none otherwise."""
    await agent.call("PLAN", tokens=1, nano_usd=10)
    await agent.override(plan_limit(until=NOW + 500, nano_usd=6))
    _, receipt = await agent.reserve("PLAN")
    assert receipt.scopes[-1].balances[MONEY].breached
    agent.at(NOW + 500)
    _, receipt = await agent.reserve("PLAN")
    assert MONEY not in receipt.scopes[-1].balances
    assert not {"PLAN.nano_usd.L", "PLAN.nano_usd.C"} & set(look.task())
    assert look.number("PLAN.nano_usd.S") == 10


async def test_an_override_ends_by_the_store_s_clock(agent: Agent, look: Look) -> None:
    """That clock may be ahead of the server's, which was set back: the call must not be lost."""
    agent.store.now_ms = ""
    await agent.call("PLAN", tokens=1)
    now = await server_ms(agent.store.connection)
    await agent.override(grant(until=now + 3_600_000, tokens=5_000))
    look.client.set(look.keys.clock, (now + 7_200_000) * 1000)
    _, receipt = await agent.reserve("PLAN")
    assert receipt.verdict is Verdict.HELD
    assert receipt.scopes[0].balances[TOKENS].granted == 0


async def test_an_override_that_ended_before_it_came_is_only_history(
    agent: Agent, look: Look
) -> None:
    """It is recorded, and changes nothing."""
    await agent.call("PLAN", tokens=1)
    await agent.override(grant(until=NOW, tokens=5_000))
    assert look.number("tokens.G") == 0
    assert "expires" not in look.task()
    assert look.client.llen(look.keys.overrides("T")) == 1


async def test_overrides_by_the_server_s_clock(agent: Agent, look: Look) -> None:
    """As the admin plane applies them."""
    agent.store.now_ms = ""
    await agent.call("PLAN", tokens=1)
    keys = TenantKeys(agent.tenant)
    in_force = await apply_override(agent.store.connection, keys, "T", grant(tokens=7))
    assert in_force.granted[TOKENS] == look.number("tokens.G") == 7
    version = look.number("version")
    await refresh_limits(agent.store.connection, keys, "T")
    assert look.number("version") == version + 1
    assert look.number("tokens.G") == 7


async def test_many_gateways_may_find_it_ended_at_once(agent: Agent, look: Look) -> None:
    """All calls go through, on the limits that hold now."""
    await agent.call("PLAN", tokens=1)
    await agent.override(grant(until=NOW + 500, tokens=5_000))
    agent.at(NOW + 500)
    stores = [RedisStore(agent.store.connection, now_ms=agent.store.now_ms) for _ in range(60)]
    plans = [agent.plan("PLAN", effects=OBSERVE) for _ in stores]
    receipts = await asyncio.gather(
        *(store.reserve(plan) for store, plan in zip(stores, plans, strict=True))
    )
    assert {receipt.verdict for receipt in receipts} == {Verdict.HELD}
    assert look.held()[2] == 60
    for plan in plans:
        await agent.store.settle(settlement(plan, 1))
    assert look.number("tokens.G") == 0


async def test_limits_that_keep_running_out_are_an_error_of_the_store(
    agent: Agent, look: Look
) -> None:
    """No call asks for ever."""
    await agent.call("PLAN", tokens=1)
    await agent.override(grant(until=NOW + 500, tokens=5_000))
    agent.at(NOW + 500)
    busy = Meanwhile(agent, lambda: look.client.hincrby(look.keys.task("T"), "version", 1))
    with busy, pytest.raises(StoreError, match="keep running out") as error:
        await agent.reserve("PLAN")
    assert error.value.reason == "lapsed"
    assert look.held()[2] == 0
