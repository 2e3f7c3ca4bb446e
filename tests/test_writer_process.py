"""The ledger's writer as the supervisor starts it: it reports, it ends when told, it is replaced."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs

from gateway.control import LedgerPlan, TelemetryPlan
from gateway.core.notices import NoticeKind
from gateway.core.webhook import WebhookPolicy
from gateway.telemetry.counters import Counters
from gateway.writer_process import LedgerProcess
from tests.dispatch.receiver import SECRET, receiving
from tests.store.agent import Agent
from tests.store.valkey_server import is_alive
from tests.telemetry.collector import collecting

PATIENCE_S = 60


@pytest.fixture
def plan(valkey: str, tenant: str, tmp_path: Path) -> LedgerPlan:
    return LedgerPlan(
        store_url=valkey,
        ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}",
        tenants=(tenant,),
        refusal_status=400,
        rebuilds=True,
        retention_days=36_500,
        size_alert_bytes=1 << 30,
        tombstone_ms=3_600_000,
        log_format="json",
        log_level="info",
        roadmap_file=str(tmp_path / "roadmap.yaml"),
        evidence_dir=str(tmp_path / "evidence"),
        reports=True,
    )


@pytest_asyncio.fixture
async def running(plan: LedgerPlan) -> AsyncIterator[tuple[LedgerProcess, Counters]]:
    counters = Counters()
    process = LedgerProcess(plan, counters)
    task = asyncio.ensure_future(process.run())
    async with asyncio.timeout(PATIENCE_S):
        while not process.writing:
            await asyncio.sleep(0.01)
    yield process, counters
    await process.stop(PATIENCE_S)
    await task


async def test_it_reports_and_writes_to_the_end(
    running: tuple[LedgerProcess, Counters], agent_of: Agent, plan: LedgerPlan
) -> None:
    """What came in before it is told to stop is written, reports too; the exit code is 0."""
    process, counters = running
    assert process.size_bytes > 0
    await agent_of.call("PLAN")
    await agent_of.call("REVIEW", tokens=0)
    await process.stop(PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while process.exit_code is None:
            await asyncio.sleep(0.01)
    assert process.exit_code == 0
    assert not process.writing
    rows = dict(counters.of("tollgate_ledger_rows_total"))
    assert rows["calls",] == 2
    assert (Path(plan.evidence_dir) / "T/verify/budget_report.md").exists()


async def test_SL6_GW19_it_writes_remediations_and_posts_notices(
    running: tuple[LedgerProcess, Counters],
    plan: LedgerPlan,
    agent_of: Agent,
) -> None:
    """A webhook that it is told of while it runs is told what happens from then on."""
    process, _ = running
    async with receiving() as receiver, asyncio.timeout(PATIENCE_S):
        secret = Path(plan.roadmap_file).with_name("secret")
        secret.write_bytes(SECRET)
        events = frozenset({NoticeKind.REMEDIATION})
        hook = WebhookPolicy(url=receiver.url, secret_file=str(secret), events=events)
        process.use_webhooks((hook,))
        episode = 0
        while not receiver.seen:  # until it has heard of it
            episode += 1
            agent_of.task = f"T-{episode}"
            await agent_of.spend(31_600)
            await agent_of.reserve("VERIFY")
            await asyncio.sleep(0.2)
        while f"FIX-BUDGET-BREACH-T-{episode}" not in _text(plan.roadmap_file):
            await asyncio.sleep(0.05)
    headers, _ = receiver.seen[0]
    assert headers["x-tollgate-event"] == "remediation"


def _text(file: str) -> str:
    return Path(file).read_text() if Path(file).exists() else ""


async def test_a_writer_that_dies(running: tuple[LedgerProcess, Counters]) -> None:
    """`run` returns, so that whoever called it starts another."""
    process, _ = running
    assert process._process is not None
    pid = process._process.pid
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        while process.exit_code is None:
            await asyncio.sleep(0.01)
    assert process.exit_code == -signal.SIGKILL
    assert not is_alive(pid)


async def test_EC18_a_collector_that_is_away_disturbs_nothing(
    plan: LedgerPlan, agent_of: Agent
) -> None:
    """Calls are written and reports made meanwhile; what is exported afterwards arrives."""
    async with collecting() as collector, asyncio.timeout(PATIENCE_S):
        collector.answers = [503] * 8
        export = TelemetryPlan(otlp_endpoint=collector.url, interval_s=0.2)
        counters = Counters()
        process = LedgerProcess(structs.replace(plan, telemetry=export), counters)
        running = asyncio.ensure_future(process.run())
        await agent_of.call("PLAN")
        await agent_of.call("REVIEW", tokens=0)
        while not (Path(plan.evidence_dir) / "T/verify/budget_report.md").exists():
            await asyncio.sleep(0.05)
        while dict(counters.of("tollgate_ledger_rows_total")).get(("calls",)) != 2:
            await asyncio.sleep(0.05)
        while ("telemetry_dropped", "warning") not in dict(counters.of("tollgate_events_total")):
            await asyncio.sleep(0.05)
        agent_of.task = "U"
        while not [span for span in collector.spans if span.name == "call"]:
            await agent_of.call("PLAN")
            await asyncio.sleep(0.2)
        await process.stop(PATIENCE_S)
        await running
    assert process.exit_code == 0


def test_nothing_of_opentelemetry_is_loaded_where_nothing_is_exported() -> None:
    """Neither by a worker nor by the writer."""
    code = "import sys, gateway.app, gateway.writer_app; print('opentelemetry' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


@pytest.fixture
def agent_of(store, tenant: str) -> Agent:  # type: ignore[no-untyped-def]
    made = Agent(store, tenant)
    made.at(1_000_000)
    return made
