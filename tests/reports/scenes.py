"""Tasks as their reports are about: told in calls, acts and overrides on a real store."""

from gateway.core.acts import Act, Verb
from gateway.core.budget import Amounts
from gateway.core.overrides import Override, OverrideKind
from gateway.ledger.report_facts import task_history
from gateway.reports.building import build_report
from gateway.reports.report import Report
from gateway.store.keys import TenantKeys
from gateway.store.steering import steer_task
from gateway.store.tasks import read_task
from tests.ledger.desk import Desk, call
from tests.store.agent import Agent

START_MS = 1_793_612_400_000
NOW_MS = START_MS + 300_000


async def complete(agent: Agent, at_ms: int, verb: Verb = Verb.COMPLETE) -> None:
    names = TenantKeys(agent.tenant)
    act = Act(f"task.{verb.value}", "ada", "all is merged")
    await steer_task(agent.store.connection, names, agent.task, verb, act, now_ms=str(at_ms))


async def grant(agent: Agent, at_ms: int, tokens: int = 10_000) -> None:
    agent.at(at_ms)
    reason = "the *second* attempt | needs\nmore <b>tokens</b>"
    amounts = Amounts(tokens=tokens)
    await agent.override(Override(OverrideKind.GRANT, "ada", reason, at_ms, amounts=amounts))


async def in_plan(agent: Agent) -> None:
    """STRATEGIZE nearly at its limit, PLAN begun."""
    await call(agent, "STRATEGIZE", 4_300, ms=60_000)
    await call(agent, "PLAN", 400, ms=0)


async def whole_life(agent: Agent) -> None:
    """Two similar tasks before; then T: over its line at VERIFY, freed by a grant, completed."""
    agent.at(START_MS - 1_000_000)
    for name, tokens in (("S-1", 12_000), ("S-2", 15_000)):
        agent.task = name
        await call(agent, "IMPLEMENT", tokens, ms=30_000)
        await complete(agent, int(agent.store.now_ms))
    agent.task = "T"
    agent.at(START_MS)
    await call(agent, "PLAN", 600, ms=10_000)
    await call(agent, "THINK", 5_800, ms=20_000)
    await call(agent, "IMPLEMENT", 25_000, ms=40_000, estimated=True)
    for _ in range(2):
        await agent.reserve("VERIFY")
    await grant(agent, START_MS + 100_000)
    await call(agent, "VERIFY", 1_000, ms=5_000)
    await call(agent, "MONITOR", 0, ms=0)
    await complete(agent, START_MS + 200_000)


async def report_of(agent: Agent, desk: Desk, now_ms: int = NOW_MS) -> Report:
    """The report of the agent's task, the stream being empty."""
    names = TenantKeys(agent.tenant)
    view = await read_task(agent.store.connection, names, agent.task, now_ms)
    with desk.connect() as connection:
        history = task_history(connection, agent.tenant, agent.task)
    return build_report(agent.task, view, history, now_ms)
