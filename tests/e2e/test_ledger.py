"""Nothing is forgotten: every call that the provider served is one row, whatever died meanwhile.

Each call has a number of prompt tokens that no other has, so that a row and the provider's entry
can be told to be the same call.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from gateway.ledger.database import known_epoch, open_engine
from gateway.ledger.schema import CALLS, TASKS
from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import PATIENCE_S, ROOT, Gateway, environment, until
from tests.ledger.postgres import PostgresServer, postgres_server
from tests.soak import Sizes
from tests.store.valkey_server import ValkeyServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

QUICK = {
    "TOLLGATE_STORE__LEASE_MS": "3000",
    "TOLLGATE_STORE__HEARTBEAT_MS": "500",
    "TOLLGATE_STORE__SWEEP_MS": "300",
    "TOLLGATE_LIMITS__DRAIN_MS": "1000",
    "TOLLGATE_LOG__CALLS": "false",
    "TOLLGATE_BUDGETS__FILE": "config/presets/coding_agent.yaml",
    "TOLLGATE_LEDGER__WRITER": "true",
}
CALLERS = 12  # of each gateway
TASKS_IN_USE = 20
PHASES = ("PLAN", "IMPLEMENT", "VERIFY")
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server that tests may kill."""
    with postgres_server() as server:
        yield server


@dataclass
class Traffic:
    """Callers of some gateways; what was answered, by the call's number of prompt tokens."""

    gateways: list[Gateway]
    calls: int
    answered: set[int] = field(default_factory=set)
    unsure: set[int] = field(default_factory=set)
    stopped: bool = False

    def __post_init__(self) -> None:
        self._numbers = count(1)

    @property
    def done(self) -> int:
        return len(self.answered) + len(self.unsure)

    async def run(self) -> None:
        await asyncio.gather(
            *(self._caller(gateway) for gateway in self.gateways for _ in range(CALLERS))
        )

    async def _caller(self, gateway: Gateway) -> None:
        patience = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(timeout=patience) as client:
            while not self.stopped and (number := next(self._numbers)) <= self.calls:
                await self._call(client, gateway, number)

    async def _call(self, client: aiohttp.ClientSession, gateway: Gateway, number: int) -> None:
        headers = {
            "X-Task-Id": f"L-{number % TASKS_IN_USE}",
            "X-Task-Phase": PHASES[number % len(PHASES)],
            "X-Fake-Prompt-Tokens": str(number),
            "X-Fake-Completion-Tokens": "5",
        }
        while True:
            try:
                url = f"{gateway.url}/v1/chat/completions"
                async with client.post(url, json=BODY, headers=headers) as answer:
                    text = await answer.text()
            except aiohttp.ClientConnectorError:  # nothing was sent: the gateway is starting again
                await asyncio.sleep(0.05)
                continue
            except (aiohttp.ClientError, TimeoutError):
                self.unsure.add(number)
                return
            assert answer.status == 200, text
            self.answered.add(number)
            return

    async def until(self, percent: int) -> None:
        """Wait for a share of the calls to have come to their end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 20 * PATIENCE_S
        while self.done * 100 < percent * self.calls:
            assert loop.time() < deadline, self.done
            await asyncio.sleep(0.01)


def writer_pids(gateway: Gateway) -> list[int]:
    return [pid for pid, command in gateway.children().items() if "gateway.writer_app" in command]


def kill_writer(gateway: Gateway) -> None:
    for pid in writer_pids(gateway):
        os.kill(pid, signal.SIGKILL)


async def kill_whole(gateway: Gateway) -> None:
    """Supervisor, workers, writer, without any notice."""
    for pid in (gateway.process.pid, *gateway.worker_pids(), *writer_pids(gateway)):
        os.kill(pid, signal.SIGKILL)
    await gateway.kill()


def rows_of(url: str) -> list[dict[str, Any]]:
    with open_engine(url).connect() as connection:
        return [dict(row) for row in connection.execute(select(CALLS)).mappings()]


def knows_the_store(url: str) -> bool:
    """Return whether the ledger has noted which data of the store it goes with."""
    with open_engine(url).connect() as connection:
        return known_epoch(connection, "default") is not None


async def tollgate(gateway: Gateway, *arguments: str) -> tuple[int, str]:
    """Run a command of the ledger's with a gateway's settings; return exit code and output."""
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "ledger", *arguments),
        cwd=ROOT,
        env=environment(gateway._environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await made.communicate()
    return made.returncode or 0, out.decode()


async def somebody_writes(gateways: list[Gateway]) -> None:
    """Wait for a writer, which was killed a moment ago, to be back, the schema upgraded."""
    async with asyncio.timeout(PATIENCE_S):
        while not any([await gateway.metric("tollgate_ledger_writing") for gateway in gateways]):
            await asyncio.sleep(0.1)


async def check_against_the_provider(
    gateway: Gateway, url: str, provider: FakeProvider, traffic: Traffic
) -> None:
    """Rows are the provider's entries, each once; and the store agrees with them."""
    await somebody_writes(traffic.gateways)
    code, said = await tollgate(gateway, "verify")
    assert code == 0, said
    served = {
        entry.prompt_tokens for entry in provider.journal if entry.path == "/v1/chat/completions"
    }
    assert traffic.answered <= served
    rows = rows_of(url)
    settled = Counter(row["input_tokens"] for row in rows if row["usage_source"] == "provider")
    assert max(settled.values()) == 1
    assert set(settled) <= served
    # Calls whose worker died were charged what they held. Some of them had not been sent yet.
    others = [row for row in rows if row["usage_source"] != "provider"]
    lost = served - set(settled)
    assert lost <= traffic.unsure
    assert len(lost) <= len(others) <= len(traffic.unsure)
    assert {row["state"] for row in others} <= {"expired", "settled", "released"}
    assert len({row["call_id"] for row in rows}) == len(rows)
    assert all(row["output_tokens"] == 5 for row in rows if row["usage_source"] == "provider")
    print(
        f"\n{len(served)} served, {len(rows)} rows: {len(settled)} by the provider's counts, "
        f"{len(others)} charged what they held; {len(traffic.unsure)} cut calls"
    )


async def until_nothing_is_open(store_keys: Callable[[], int]) -> None:
    await until(lambda: store_keys() == 0, "the end of all leases")


@pytest.mark.soak
async def test_two_gateways_one_postgresql(
    start_gateway: StartGateway,
    provider: FakeProvider,
    postgres: PostgresServer,
    tmp_path: Path,
    sizes: Sizes,
) -> None:
    """Writers, database and a gateway are killed under traffic."""
    valkey = ValkeyServer(tmp_path / "v")
    valkey.start()
    url = postgres.database()
    shared = {"TOLLGATE_REDIS__URL": valkey.url, "TOLLGATE_LEDGER__URL": url, **QUICK}
    try:
        one, other = await start_gateway(**shared), await start_gateway(**shared)
        traffic = Traffic([one, other], sizes.ledger_calls)
        running = asyncio.ensure_future(traffic.run())
        await traffic.until(15)
        kill_writer(one)
        await traffic.until(30)
        kill_writer(other)
        kill_writer(one)
        await traffic.until(40)
        postgres.kill()
        await traffic.until(60)
        postgres.start()
        await traffic.until(70)
        await kill_whole(other)
        await other.start()
        await running
        with valkey.client() as store:
            await until_nothing_is_open(lambda: store.zcard(one.keys.leases))
            await check_against_the_provider(one, url, provider, traffic)
            assert store.xlen(one.keys.ledger) == 0
    finally:
        await one.stop()
        await other.stop()
        valkey.kill()


@pytest.mark.soak
async def test_one_gateway_on_sqlite(
    start_gateway: StartGateway, provider: FakeProvider, tmp_path: Path, sizes: Sizes
) -> None:
    """The same with what is there without any setting."""
    gateway = await start_gateway(state_dir=tmp_path / "state", workers=2, **QUICK)
    traffic = Traffic([gateway], sizes.ledger_calls)
    running = asyncio.ensure_future(traffic.run())
    await traffic.until(20)
    kill_writer(gateway)
    await traffic.until(40)
    gateway.kill_child(gateway.worker_pids()[0])
    await traffic.until(60)
    await kill_whole(gateway)
    await gateway.start()
    await traffic.until(80)
    kill_writer(gateway)
    await running
    await until_nothing_is_open(lambda: gateway.store.zcard(gateway.keys.leases))
    url = f"sqlite:///{tmp_path / 'state' / 'ledger.db'}"
    await check_against_the_provider(gateway, url, provider, traffic)
    await gateway.stop()


@pytest.mark.soak
async def test_flushall_under_traffic(
    start_gateway: StartGateway, provider: FakeProvider, tmp_path: Path, sizes: Sizes
) -> None:
    """Noticed by the epoch, rebuilt by itself; totals are the ledger's, calls are counted once."""
    gateway = await start_gateway(state_dir=tmp_path / "state", **QUICK)
    url = f"sqlite:///{tmp_path / 'state' / 'ledger.db'}"
    await until(lambda: gateway.log_events("ledger_writer_ready"), "the writer")
    await until(lambda: knows_the_store(url), "the writer's first look")
    traffic = Traffic([gateway], sizes.ledger_calls // 2)
    running = asyncio.ensure_future(traffic.run())
    await traffic.until(50)
    gateway.store.flushall()
    await running
    await until(lambda: gateway.log_events("ledger_rebuilt"), "the rebuild")
    await until_nothing_is_open(lambda: gateway.store.zcard(gateway.keys.leases))
    code, said = await tollgate(gateway, "verify")
    assert code == 0, said
    rows = rows_of(url)
    tokens: Counter[str] = Counter()
    for row in rows:
        tokens[row["task"]] += row["tokens"]
    for task, total in tokens.items():
        assert gateway.number(task, "tokens.S") == total
    seen = Counter(row["input_tokens"] for row in rows)
    assert max(seen.values()) == 1
    # What was in the stream at that moment is gone with it: no more than the writer's last batch.
    served = {entry.prompt_tokens for entry in provider.journal}
    assert set(seen) <= served
    assert len(served - set(seen)) < len(served) / 4
    print(f"\n{len(served)} served, {len(rows)} rows")
    assert await gateway.metric("tollgate_ledger_writing") == 1
    await gateway.stop()


async def test_calls_do_not_notice_a_database_that_is_down(
    start_gateway: StartGateway, postgres: PostgresServer, provider: FakeProvider
) -> None:
    """Every call is answered; what happened waits in the stream, and is written afterwards."""
    url = postgres.database()
    gateway = await start_gateway(TOLLGATE_LEDGER__URL=url, **QUICK)
    await until(lambda: gateway.log_events("ledger_writer_ready"), "the writer")
    postgres.kill()
    traffic = Traffic([gateway], 200)
    await traffic.run()
    assert len(traffic.answered) == 200
    await until(lambda: gateway.log_events("ledger_database_failed"), "the alert")
    assert gateway.store.xlen(gateway.keys.ledger) >= 200
    postgres.start()
    await until(lambda: gateway.store.xlen(gateway.keys.ledger) == 0, "the drained stream")
    assert sorted(row["input_tokens"] for row in rows_of(url)) == list(range(1, 201))
    await gateway.stop()


async def _mend_a_charge(gateway: Gateway, file: Path) -> None:
    """Correct a call through the admin plane, which asks the ledger; then it is written there."""

    def rows() -> list[dict[str, Any]]:
        return [row for row in rows_of(f"sqlite:///{file}") if row["task"] == "L-1"]

    call_id, said = rows()[0]["call_id"], {"approver": "ada", "reason": "the bill", "tokens": 5}
    for changed in (True, False):
        answer = await gateway.admin("POST", f"/admin/v1/calls/{call_id}/correct", said)
        assert (answer.status_code, answer.json()["changed"]) == (200, changed), answer.text
        await until(lambda: any(row["corrected_ms"] for row in rows()), "the mended row")
    assert {row["call_id"]: row["tokens"] for row in rows()}[call_id] == 5


async def test_the_commands(
    start_gateway: StartGateway, provider: FakeProvider, tmp_path: Path
) -> None:
    """verify tells agreement and difference by its exit code, rebuild mends, export writes."""
    gateway = await start_gateway(state_dir=tmp_path / "state", **QUICK)
    traffic = Traffic([gateway], 30)
    await traffic.run()
    await gateway.settled("L-1", 2)
    assert await tollgate(gateway, "verify") == (0, "ok: 20 tasks agree\n")
    gateway.store.hincrby(gateway.keys.task("L-1"), "tokens.S", -3)
    code, said = await tollgate(gateway, "verify")
    assert code == 3
    assert "L-1: tokens.S: store " in said
    code, said = await tollgate(gateway, "rebuild")
    assert (code, said.partition(",")[0]) == (
        0,
        "ok: 1 of 20 tasks were given something back",
    )
    assert await tollgate(gateway, "verify", "--task", "L-1") == (0, "ok: 1 tasks agree\n")
    await _mend_a_charge(gateway, tmp_path / "state" / "ledger.db")
    assert await tollgate(gateway, "verify") == (0, "ok: 20 tasks agree\n")
    file = tmp_path / "calls.csv"
    code, said = await tollgate(gateway, "export", "--format", "csv", str(file))
    assert (code, said) == (0, f"ok: 30 rows of calls in {file}\n")
    assert len(file.read_text().splitlines()) == 31
    running = await gateway.admin("GET", "/admin/v1/tasks/L-1/report")
    assert "Report generated mid-task (current phase: " in running.text
    done = {"approver": "ann", "reason": "all is merged"}
    await gateway.admin("POST", "/admin/v1/tasks/L-2/complete", done)
    await gateway.stop()
    evidence = tmp_path / "state" / "evidence" / "L-2"
    assert "**Task State**: completed" in (evidence / "verify/budget_report.md").read_text()
    code, said = await tollgate(gateway, "verify")
    assert code == 1
    assert "Remedy: start the gateway" in said
    with open_engine(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}").connect() as connection:
        assert len(connection.execute(select(TASKS)).all()) == 20
