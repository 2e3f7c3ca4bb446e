"""What `/readyz` and `/metrics` say of a store that stalls: what the workers' calls meet."""

import asyncio
from pathlib import Path

import pytest

from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import PATIENCE_S, Gateway
from tests.store.valkey_server import ValkeyServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

POLICY = """\
kind: stop_loss
name: trouble
mode: enforce
store_failure: {kind}
"""
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


async def call_until(gateway: Gateway, task: str, status: str) -> int:
    """Make calls until `/readyz` has this status; return its HTTP status."""
    async with gateway.client() as client, asyncio.timeout(PATIENCE_S):
        while True:
            answer = await client.post(
                "/v1/chat/completions", json=BODY, headers={"x-task-id": task}
            )
            assert answer.status_code in (200, 503), answer.text
            ready = await gateway.admin("GET", "/readyz")
            if ready.json()["status"] == status:
                return ready.status_code


@pytest.mark.parametrize(
    ("kind", "status", "http_status"),
    [("open", "degraded", 200), ("allowance", "degraded", 200), ("closed", "not_ready", 503)],
)
async def test_a_store_that_stalls(
    kind: str,
    status: str,
    http_status: int,
    start_gateway: StartGateway,
    provider: FakeProvider,
    tmp_path: Path,
    task: str,
) -> None:
    """Its connections stand, so only calls notice; when it is back that shows without any call."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "trouble.yaml").write_text(POLICY.format(kind=kind))
    valkey = ValkeyServer(tmp_path / "v")
    valkey.start()
    try:
        gateway = await start_gateway(
            TOLLGATE_REDIS__URL=valkey.url,
            TOLLGATE_POLICIES__DIR=str(policies),
            TOLLGATE_STORE__TIMEOUT_MS="200",
        )
        assert await call_until(gateway, task, "ready") == 200
        valkey.freeze()
        assert await call_until(gateway, task, status) == http_status
        ready = await gateway.ready()
        assert ready["reasons"][-1] == "store: no answers to 1 of 1 workers"
        assert await gateway.metric("tollgate_store_up") == 0
        if kind == "open":
            async with asyncio.timeout(PATIENCE_S):
                while not await gateway.metric("tollgate_journal_entries"):
                    await asyncio.sleep(0.1)
            assert await gateway.metric("tollgate_journal_bytes") > 0
        valkey.thaw()
        async with asyncio.timeout(PATIENCE_S):
            while (await gateway.ready())["status"] != "ready":
                await asyncio.sleep(0.1)
        assert await gateway.metric("tollgate_store_up") == 1
        async with asyncio.timeout(PATIENCE_S):
            while await gateway.metric("tollgate_journal_entries"):
                await asyncio.sleep(0.1)
    finally:
        valkey.kill()
