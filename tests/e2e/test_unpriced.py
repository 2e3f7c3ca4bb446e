"""GW-5: a model without a known price is flagged as shipped, and refused under `deny`."""

import signal
from pathlib import Path

import httpx
import pytest

from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

POLICIES = {
    "a.yaml": "kind: stop_loss\nname: a\nmode: observe\n",
    "b.yaml": "kind: unpriced_model\nname: b\nmode: enforce\neffect: deny\n",
}


async def ask(gateway: Gateway, model: str, task: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    async with gateway.client() as client:
        return await client.post("/v1/chat/completions", json=body, headers={"x-task-id": task})


async def test_an_unpriced_model_is_flagged(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """By default; a priced one is not."""
    answer = await ask(gateway, "gpt-7", task)
    assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "flag")
    answer = await ask(gateway, "gpt-4o", task)
    assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "allow")


async def test_an_unpriced_model_is_refused_where_policy_denies(
    start_gateway: StartGateway, provider: FakeProvider, task: str, tmp_path: Path
) -> None:
    """Nothing reaches the provider; a priced model passes."""
    folder = tmp_path / "unpriced"
    folder.mkdir()
    for name, text in POLICIES.items():
        (folder / name).write_text(text)
    gateway = await start_gateway(TOLLGATE_POLICIES__DIR=str(folder))
    answer = await ask(gateway, "gpt-7", task)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unpriced_model"
    assert answer.headers["x-should-retry"] == "false"
    assert provider.journal == []
    answer = await ask(gateway, "gpt-4o", task)
    assert (answer.status_code, answer.headers["x-tollgate-decision"]) == (200, "allow")


async def test_a_reload_may_not_take_the_price_of_a_model_in_use(
    start_gateway: StartGateway, provider: FakeProvider, task: str, tmp_path: Path
) -> None:
    """What was in force stays; the model is named. One that nobody has called may go."""
    prices = tmp_path / "prices.yaml"
    price = "{input_usd_per_million: 1, output_usd_per_million: 2}"
    prices.write_text(f"models:\n  mine: {price}\n  idle: {price}\n")
    gateway = await start_gateway(TOLLGATE_PRICES__FILE=str(prices))
    assert (await ask(gateway, "mine", task)).headers["x-tollgate-decision"] == "allow"
    await gateway.until_metric(1, "tollgate_usage_source_total", source="provider")
    prices.write_text(f"models:\n  idle: {price}\n")
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: gateway.log_events("reload_rejected"), "the refusal")
    assert gateway.log_events("price_dropped")[0]["model"] == "mine"
    assert (await ask(gateway, "mine", task)).headers["x-tollgate-decision"] == "allow"
    prices.write_text(f"models:\n  mine: {price}\n")
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: gateway.log_events("reloaded"), "the reload")
    assert (await ask(gateway, "idle", task)).headers["x-tollgate-decision"] == "flag"
