"""A store that stalls, dies and comes back: calls are answered as configured, none is lost."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from gateway.store.keys import TenantKeys
from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until
from tests.soak import Sizes
from tests.store.valkey_server import ValkeyServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

POLICY = """
kind: stop_loss
name: trouble
mode: enforce
store_failure: {kind}
allowance_tokens: 2000
"""
CALLERS = 6
LONGEST_ANSWER_S = 5.0  # of a busy test machine; the store's own bound is 50 ms a call
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}


@dataclass
class Traffic:
    """Callers that go on until they are told to stop, and what they were answered."""

    gateway: Gateway
    task: str
    statuses: list[int] = field(default_factory=list)
    longest_s: float = 0.0
    stopped: bool = False

    async def call(self, client: httpx.AsyncClient) -> None:
        began = time.monotonic()
        answer = await client.post(
            f"{self.gateway.url}/v1/chat/completions",
            json=BODY,
            headers={"X-Task-Id": self.task, "X-Task-Phase": "IMPLEMENT"},
        )
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        self.statuses.append(answer.status_code)
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "budget_store_unavailable"
            assert answer.headers["retry-after"] == "2"

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while not self.stopped:
                await self.call(client)
                await asyncio.sleep(0.01)


async def trouble(valkey: ValkeyServer, traffic: Traffic, stall_s: float) -> None:
    """Freeze the store, thaw it, kill it, start it again, all under traffic."""
    await until(lambda: len(traffic.statuses) > 20, "traffic")
    valkey.freeze()
    await asyncio.sleep(stall_s)
    valkey.thaw()
    await asyncio.sleep(0.7)
    valkey.kill()
    await asyncio.sleep(stall_s)
    valkey.start()
    before = len(traffic.statuses)
    await until(lambda: len(traffic.statuses) > before + 50, "traffic after the trouble")


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["open", "closed", "allowance"])
async def test_every_call_is_answered_and_accounted_once(
    start_gateway: StartGateway,
    provider: FakeProvider,
    tmp_path: Path,
    task: str,
    sizes: Sizes,
    kind: str,
) -> None:
    """GW-6: frozen, killed and restarted under traffic; afterwards totals are the provider's."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "trouble.yaml").write_text(POLICY.format(kind=kind))
    valkey = ValkeyServer(tmp_path / "v", "--appendonly", "yes")
    valkey.start()
    try:
        gateway = await start_gateway(
            workers=1,
            TOLLGATE_REDIS__URL=valkey.url,
            TOLLGATE_POLICIES__DIR=str(policies),
            TOLLGATE_BUDGETS__FILE="config/presets/coding_agent.yaml",
            TOLLGATE_STORE__TIMEOUT_MS="50",
        )
        traffic = Traffic(gateway, task)
        callers = [asyncio.ensure_future(traffic.run()) for _ in range(CALLERS)]
        await trouble(valkey, traffic, sizes.store_stall_s)
        traffic.stopped = True
        await asyncio.gather(*callers)

        assert set(traffic.statuses) <= ({200} if kind == "open" else {200, 503})
        if kind != "open":
            assert 503 in traffic.statuses
        assert traffic.longest_s < LONGEST_ANSWER_S
        key = TenantKeys("default").task(task)
        totals = provider.totals()
        with valkey.client() as store:

            def settled() -> bool:
                spent, held, calls = store.hmget(key, "tokens.S", "tokens.H", "calls.S")
                return (spent, held, calls) == (
                    str(totals.prompt_tokens + totals.completion_tokens),
                    "0",
                    str(totals.calls),
                )

            await until(settled, "totals equal to the provider's")
        counts = dict(sorted(Counter(traffic.statuses).items()))
        print(f"{kind}: {counts}, longest answer {traffic.longest_s * 1000:.0f} ms")
        await until(
            lambda: not list((gateway.state_dir / "journal").glob("*.jsonl")), "an empty journal"
        )
    finally:
        valkey.kill()
