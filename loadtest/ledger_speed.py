"""How many calls a second the ledger's writer gets into its database, on one core.

`python -m loadtest.ledger_speed [--calls 40000] [--url postgresql://...]` runs calls through the
store's own scripts first (that is not measured), then lets the writer, alone on a core, write them.
"""

import argparse
import asyncio
import os
import resource
import tempfile
from pathlib import Path

from gateway.core.admission import Effects, Need
from gateway.core.budget import TaskProfile, task_limits
from gateway.core.call_facts import CallAbout, CallOutcome, Standing
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import ReserveKind
from gateway.core.usage import Usage, UsageSource
from gateway.ledger.database import open_engine
from gateway.ledger.writer import LedgerWriter, WriterRules
from gateway.ports import ReservePlan, Settlement, TaskFacts
from gateway.rule_files import DEFAULT_PHASE_BUDGETS
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.embedded import EmbeddedStore
from gateway.store.keys import TenantKeys
from gateway.store.redis_store import RedisStore
from loadtest.linux import own_cores, pin

_TENANT = "default"
_TASKS = 50
_AT_ONCE = 200
_LIMITS = task_limits(DEFAULT_PHASE_BUDGETS, TaskProfile())
_ABOUT = CallAbout(
    model="gpt-4o-mini",
    upstream="openai",
    dialect="openai_chat",
    method="POST",
    path="/v1/chat/completions",
    complexity="Medium",
    importance="medium",
    tags={"phase": "IMPLEMENT"},
    policy="stop-loss",
    mode="observe",
    policy_hash="0123456789ab",
    config_hash="0123456789abcdef",
)
_USAGE = Usage(input_total=250, output_total=20)
_OUTCOME = CallOutcome(
    decision="allow",
    status=200,
    usage=_USAGE,
    source="provider",
    priced=True,
    model_served="gpt-4o-mini-2024-07-18",
    latency_ms=812,
    first_byte_ms=300,
    task_tokens=Standing(100_000, 3_000, 28_080),
    task_latency=Standing(30_000, 0, 687_600),
    phase_tokens=Standing(40_000, 1_000, 5_250),
)


def _plan(number: int) -> ReservePlan:
    return ReservePlan(
        call_id=f"c0123456789abcdef-{number:x}",
        tenant=_TENANT,
        task=f"load-{number % _TASKS:02}",
        facts=TaskFacts(Complexity.MEDIUM, ImportanceTier.MEDIUM),
        limits=_LIMITS,
        phase=WorkPhase.IMPLEMENT,
        enforce_from=None,
        kind=ReserveKind.EXPECTED,
        effects=Effects({}, {}),
        need=Need(250, 250, 0, 20, 0, 0),
        about=_ABOUT,
    )


async def _make_calls(connection: StoreConnection, calls: int) -> None:
    store = RedisStore(connection)

    async def call(number: int) -> None:
        plan = _plan(number)
        await store.reserve(plan)
        settlement = Settlement(
            plan, plan.phase, 270, 49_500, _USAGE, UsageSource.PROVIDER, outcome=_OUTCOME
        )
        await store.settle(settlement)

    for start in range(0, calls, _AT_ONCE):
        await asyncio.gather(*map(call, range(start, min(calls, start + _AT_ONCE))))


async def _until_empty(connection: StoreConnection, stream: str) -> None:
    while True:
        if not await connection.execute("XLEN", stream):
            return
        await asyncio.sleep(0.01)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(folder: Path, calls: int, url: str) -> str:
    """Return what was measured, for people."""
    embedded = EmbeddedStore(folder)
    await embedded.start()
    connection = StoreConnection(parse_store_url(embedded.url))
    try:
        await connection.open()
        await _make_calls(connection, calls)
        key = TenantKeys(_TENANT).ledger
        entry_bytes = int(await connection.execute("MEMORY", "USAGE", key)) / calls
        pin(os.getpid(), own_cores()[:1])
        engine = open_engine(url or f"sqlite:///{folder / 'ledger.db'}")
        writer = LedgerWriter(WriterRules((_TENANT,)), connection, engine, lambda *_, **__: None)
        clock = asyncio.get_running_loop().time
        began, cpu = clock(), _cpu_s()
        running = asyncio.ensure_future(writer.run())
        await _until_empty(connection, key)
        took_s, cpu = clock() - began, _cpu_s() - cpu
        writer.stop()
        await running
    finally:
        await connection.close()
        await embedded.stop()
    return (
        f"{engine.dialect.name}: {calls:,} calls written in {took_s:.1f} s: "
        f"{calls / took_s:,.0f} calls/s, {cpu / calls * 1e6:.0f} us of the writer's CPU a call, "
        f"{entry_bytes:.0f} bytes an entry in the store"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--url", default="", help="the ledger's database; default: a SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        print(asyncio.run(measure(Path(folder), options.calls, options.url)))


if __name__ == "__main__":
    main()
