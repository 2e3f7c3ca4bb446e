"""kill -9 in mid-stream: what was held is charged when its lease is over, and nothing is lost."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until
from tests.store.valkey_server import is_alive

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

QUICK = {
    "TOLLGATE_STORE__LEASE_MS": "4000",
    "TOLLGATE_STORE__HEARTBEAT_MS": "500",
    "TOLLGATE_STORE__SWEEP_MS": "200",
    "TOLLGATE_LIMITS__DRAIN_MS": "1000",
}
REQUEST = {
    "model": "m",
    "messages": [{"role": "user", "content": "x" * 4_000}],
    "max_tokens": 1_000,
    "stream": True,
}


Rest = Callable[[], Awaitable[str]]


@asynccontextmanager
async def mid_stream(gateway: Gateway, task: str) -> AsyncIterator[Rest]:
    """Open a stream that stalls after ten tokens, and read up to there; yields what reads on."""
    headers = {"x-task-id": task, "x-task-phase": "PLAN", "x-fake-fault": "hang:10"}
    async with gateway.client() as client:
        request = client.build_request(
            "POST", "/v1/chat/completions", json=REQUEST, headers=headers
        )
        answer = await client.send(request, stream=True)
        pieces = answer.aiter_text()

        async def rest() -> str:
            return "".join([piece async for piece in pieces])

        text = ""
        while text.count("data:") < 11:
            text += await anext(pieces)
        try:
            yield rest
        finally:
            with contextlib.suppress(httpx.HTTPError):
                await answer.aclose()


async def charged(gateway: Gateway, task: str, held: int, calls: int = 1) -> dict[str, str]:
    """Wait for the charge of a call that nobody settled; it is its hold, and marked."""
    fields = await gateway.settled(task, calls)
    assert (fields["expired.calls"], fields["expired.tokens"]) == ("1", str(held))
    assert gateway.held(task) == gateway.held(task, "PLAN.") == (0, 0, 0, 0)
    assert gateway.store.zcard(gateway.keys.leases) == 0
    await until(lambda: gateway.log_events("call_expired"), "the event")
    return fields


async def test_a_worker_that_dies(start_gateway: StartGateway, task: str) -> None:
    """The client sees a cut; another worker is started, and serves; the call expires."""
    gateway = await start_gateway(mode="enforce", **QUICK)
    async with mid_stream(gateway, task) as rest:
        held, *_ = gateway.held(task)
        assert held > 1_000
        (worker,) = gateway.worker_pids()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            await rest()
    await until(lambda: gateway.log_events("worker_died"), "the supervisor's notice")
    await until_ready(gateway)
    assert gateway.worker_pids() != [worker]
    assert (await charged(gateway, task, held))["tokens.S"] == str(held)
    async with gateway.client() as client:
        answer = await client.post(
            "/v1/chat/completions",
            json={**REQUEST, "stream": False},
            headers={"x-task-id": task, "x-task-phase": "PLAN"},
        )
    assert answer.headers["x-budget-task-tokens-used"] == str(held)
    await gateway.settled(task, 2)


async def until_ready(gateway: Gateway, workers: int = 1) -> None:
    """Wait for `/readyz` to say that all workers are back."""
    async with asyncio.timeout(60):
        while (await gateway.ready())["workers_ready"] != workers:
            await asyncio.sleep(0.05)
    assert (await gateway.ready())["status"] == "ready"


async def test_readiness_without_any_worker(start_gateway: StartGateway) -> None:
    """While there is none, /readyz is 503 and says why; /healthz is not impressed."""
    gateway = await start_gateway(**QUICK)
    (worker,) = gateway.worker_pids()
    os.kill(worker, signal.SIGSTOP)  # so that its successor cannot be quicker than we are
    os.kill(worker, signal.SIGKILL)
    async with asyncio.timeout(60):
        while (answer := await gateway.admin("GET", "/readyz")).status_code == 200:
            await asyncio.sleep(0)
    assert answer.status_code == 503
    assert answer.json()["status"] == "not_ready"
    assert (await gateway.admin("GET", "/healthz")).status_code == 200
    await until_ready(gateway)


async def test_the_other_worker_is_not_disturbed(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """A dead worker loses nothing but its own open sockets."""
    gateway = await start_gateway(workers=2, **QUICK)
    headers = {"x-task-id": task, "x-fake-ttfb-ms": "3000"}
    async with gateway.client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        calling = [
            asyncio.ensure_future(
                client.post("/v1/chat/completions", json=REQUEST, headers=headers)
            )
            for _ in range(20)
        ]
        await until(lambda: len(provider.journal) == 20, "twenty calls at the provider")
        os.kill(gateway.worker_pids()[0], signal.SIGKILL)
        answers = await asyncio.gather(*calling, return_exceptions=True)
    lost = [answer for answer in answers if isinstance(answer, httpx.HTTPError)]
    passed = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert len(lost) + len(passed) == 20
    assert all(answer.status_code == 200 for answer in passed)
    fields = await gateway.settled(task, 20)
    assert int(fields.get("expired.calls", 0)) == len(lost)


async def test_the_whole_gateway(start_gateway: StartGateway, tmp_path: Path, task: str) -> None:
    """Killed and started again on the same state: the store ended with its parent, totals are
    there, the open call is charged."""
    state_dir = tmp_path / "state"
    gateway = await start_gateway(state_dir=state_dir, workers=2, **QUICK)
    await settled_call(gateway, task)
    async with mid_stream(gateway, task) as rest:
        held, *_ = gateway.held(task)
        workers, store = gateway.worker_pids(), gateway.valkey_pid()
        token = gateway.token
        for pid in (gateway.process.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        await gateway.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            await rest()
        await until(lambda: not any(map(is_alive, [store, *workers])), "the end of all children")
        again = await start_gateway(state_dir=state_dir, workers=2, **QUICK)
    assert again.token == token
    assert "shown once" not in again.banner
    fields = await charged(again, task, held, calls=2)
    assert int(fields["tokens.S"]) == 28 + held
    await settled_call(again, task, calls=3)
    assert again.number(task, "tokens.S") == 56 + held


async def settled_call(gateway: Gateway, task: str, calls: int = 1) -> None:
    """Make one call of 28 tokens."""
    headers = {"x-task-id": task, "x-fake-prompt-tokens": "8", "x-fake-completion-tokens": "20"}
    async with gateway.client() as client:
        body = {**REQUEST, "stream": False}
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    await gateway.settled(task, calls)


async def test_only_the_supervisor(start_gateway: StartGateway, tmp_path: Path, task: str) -> None:
    """Its children end by themselves: workers drain first, and the store never is an orphan."""
    state_dir = tmp_path / "state"
    gateway = await start_gateway(state_dir=state_dir, TOLLGATE_LEDGER__WRITER="true", **QUICK)
    async with mid_stream(gateway, task):
        held, *_ = gateway.held(task)
        children = await gateway.kill()
        assert len(children) == 3  # a worker, the store, the ledger's writer
        await until(lambda: not any(map(is_alive, children)), "the end of all children")
    again = await start_gateway(state_dir=state_dir, **QUICK)
    fields = await again.settled(task, 1)
    assert int(fields["tokens.S"]) >= 10
    assert int(fields.get("expired.tokens", 0)) in (0, held)
    assert again.held(task) == (0, 0, 0, 0)


async def test_the_store_alone(start_gateway: StartGateway, task: str) -> None:
    """It is started again on its data; the gateway goes on by itself."""
    gateway = await start_gateway(**QUICK)
    await settled_call(gateway, task)
    store = gateway.valkey_pid()
    os.kill(store, signal.SIGKILL)
    await until(lambda: not is_alive(store), "the end of the store")
    await until(lambda: any("valkey-server" in c for c in gateway.children().values()), "another")
    async with asyncio.timeout(60):
        while not (await gateway.ready())["store_connected"]:
            await asyncio.sleep(0.05)
    assert gateway.log_events("embedded_store_died")
    await settled_call(gateway, task, calls=2)
    assert gateway.number(task, "tokens.S") == 56


async def test_totals_survive_a_restart(
    start_gateway: StartGateway, tmp_path: Path, task: str
) -> None:
    """Stopped in an orderly way and started again, the task goes on where it was."""
    state_dir = tmp_path / "state"
    gateway = await start_gateway(state_dir=state_dir)
    await settled_call(gateway, task)
    before = gateway.task(task)
    await gateway.stop()
    again = await start_gateway(state_dir=state_dir)
    assert again.task(task) == before
    await settled_call(again, task, calls=2)


async def test_with_the_settings_that_are_shipped(
    start_gateway: StartGateway, tmp_path: Path, provider: FakeProvider, task: str
) -> None:
    """Within 30 seconds and one sweep the call of a dead worker is charged.

    Meanwhile a second gateway on the same state does not start, and says what to do.
    """
    state_dir = tmp_path / "state"
    gateway = await start_gateway(state_dir=state_dir)
    loop = asyncio.get_running_loop()
    async with mid_stream(gateway, task):
        held, *_ = gateway.held(task)
        (worker,) = gateway.worker_pids()
        os.kill(worker, signal.SIGKILL)
        died_at = loop.time()
        second = Gateway(tmp_path / "second", provider.base_url, TOLLGATE_STATE_DIR=str(state_dir))
        async with second.launched():
            assert await second.ended() == 1
        assert "another gateway uses the data" in second.log_text
        await charged(gateway, task, held)
    assert loop.time() - died_at < 30 + 5 + 10  # lease, sweep, and what a busy machine takes
    assert (await gateway.ready())["status"] == "ready"
