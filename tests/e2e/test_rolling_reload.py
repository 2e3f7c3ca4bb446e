"""SIGUSR2 under load: other processes serve, and no call is lost."""

import asyncio
import os
import signal

import httpx
import pytest

from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

CONNECTIONS = 8
PATIENCE_S = 90
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Load:
    """Closed loops, each on a kept-alive connection of its own. Nothing is ever repeated."""

    def __init__(self, gateway: Gateway, task: str) -> None:
        self.passed = 0
        self.failures: list[object] = []
        self.closes = 0
        self._gateway = gateway
        self._headers = {"x-task-id": task}
        self._over = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as loops:
            for number in range(CONNECTIONS):
                loops.create_task(self._loop(number))

    async def goes_on(self, calls: int) -> None:
        """Return when so many more calls have passed."""
        wanted = self.passed + calls
        async with asyncio.timeout(PATIENCE_S):
            while self.passed < wanted:
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._over = True

    async def _loop(self, number: int) -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        pause_s = 0.03 * (number % 3)  # some are mostly idle: those are what a close can hit
        async with self._gateway.client(limits=limits) as client:
            while not self._over:
                try:
                    answer = await client.post(
                        "/v1/chat/completions", json=REQUEST, headers=self._headers
                    )
                except httpx.HTTPError as error:
                    self.failures.append(error)
                    continue
                if answer.status_code != 200:
                    self.failures.append((answer.status_code, answer.text))
                self.passed += 1
                self.closes += answer.headers.get("connection") == "close"
                await asyncio.sleep(pause_s)


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_call_is_lost(
    workers: int, start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    gateway = await start_gateway(workers=workers)
    before = set(gateway.worker_pids())
    load = Load(gateway, task)
    running = asyncio.ensure_future(load.run())
    for _ in range(2):  # the second one may come in the middle of the first round
        await load.goes_on(50)
        gateway.process.send_signal(signal.SIGUSR2)
    await until(lambda: len(gateway.log_events("workers_replaced")) == 2, "the second round")
    await load.goes_on(50)
    load.stop()
    await running
    assert load.failures == []
    assert load.passed == len(provider.journal) > 100
    assert load.closes  # connections were moved, not only made anew
    after = set(gateway.worker_pids())
    assert len(after) == workers
    assert not before & after
    ready = await gateway.ready()
    assert (ready["status"], ready["workers_ready"]) == ("ready", workers)
    assert gateway.log_events("worker_died") == []
    await gateway.settled(task, load.passed)
    await gateway.until_metric(load.passed, "tollgate_calls_total")


async def test_an_open_stream_outlives_its_worker_s_replacement(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    gateway = await start_gateway()
    (old,) = gateway.worker_pids()
    headers = {"x-task-id": task, "x-fake-chunk-delay-ms": "50", "x-fake-completion-tokens": "80"}
    async with gateway.client() as client:
        streaming = asyncio.ensure_future(
            client.post("/v1/chat/completions", json={**REQUEST, "stream": True}, headers=headers)
        )
        await until(lambda: provider.journal, "the stream at the provider")
        gateway.process.send_signal(signal.SIGUSR2)
        await until(lambda: len(gateway.worker_pids()) == 2, "the successor")
        assert (await streaming).text.endswith("data: [DONE]\n\n")
        assert (await client.post("/v1/chat/completions", json=REQUEST, headers=headers)).is_success
    await until(lambda: old not in gateway.worker_pids(), "the old worker's end")
    assert len(gateway.worker_pids()) == 1


async def test_a_replaced_place_is_still_looked_after(start_gateway: StartGateway) -> None:
    """A successor that dies is restarted like the first process."""
    gateway = await start_gateway()
    (first,) = gateway.worker_pids()
    gateway.process.send_signal(signal.SIGUSR2)
    await until(lambda: gateway.log_events("workers_replaced"), "the replacement")
    (second,) = gateway.worker_pids()
    assert second != first
    os.kill(second, signal.SIGKILL)
    await until(lambda: gateway.log_events("worker_died", code=-9), "the supervisor's notice")
    await until(lambda: set(gateway.worker_pids()) - {second}, "another one")
    async with asyncio.timeout(30):
        while (await gateway.ready())["status"] != "ready":
            await asyncio.sleep(0.05)
