"""Gateway keys on the way of calls, through two gateways on one store."""

import secrets
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from gateway.core.keys import GatewayKey, TagTexts, changed, secret_digest
from gateway.core.phases import WorkPhase
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.key_store import KeyStore
from loadtest.fake_provider import FakeProvider, Received, Script
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = "s" * 40
CHAT = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}


@pytest_asyncio.fixture(loop_scope="session")
async def keys(enforcing: Gateway) -> AsyncIterator[KeyStore]:
    """The keys that both gateways know."""
    connection = StoreConnection(parse_store_url(enforcing.store_url))
    await connection.open()
    yield KeyStore(connection)
    await connection.close()


def new_key(**fields: object) -> GatewayKey:
    key_id = secrets.token_hex(4)
    return GatewayKey(key_id, secret_digest(SECRET.encode()), "an agent", **fields)  # type: ignore[arg-type]


def text(key: GatewayKey) -> str:
    return f"tg-{key.id}-{SECRET}"


async def ask(gateway: Gateway, headers: dict[str, str], **fields: object) -> httpx.Response:
    async with gateway.client() as client:
        return await client.post("/v1/chat/completions", json={**CHAT, **fields}, headers=headers)


def limits_of(fields: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name.endswith((".L", ".G", ".C"))}


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "x-goog-api-key"])
async def test_a_key_is_for_us_alone(
    header: str, enforcing: Gateway, keys: KeyStore, provider: FakeProvider, task: str
) -> None:
    """It never reaches the provider; what stands beside X-Tollgate-Key does."""
    seen: list[dict[str, str]] = []

    def script(received: Received) -> Script:
        seen.append({name.decode().lower(): value.decode() for name, value in received.headers})
        return Script()

    provider.script(script)
    key = new_key()
    await keys.add(key)
    value = f"Bearer {text(key)}" if header == "authorization" else text(key)
    assert (await ask(enforcing, {"x-task-id": task, header: value})).status_code == 200
    beside = {"x-tollgate-key": text(key), "authorization": "Bearer sk-own"}
    assert (await ask(enforcing, {"x-task-id": task, **beside})).status_code == 200
    first, second = seen
    assert "tg-" not in str(first)
    assert second["authorization"] == "Bearer sk-own"
    assert "x-tollgate-key" not in second


async def test_what_proves_nothing_is_turned_away(
    enforcing: Gateway, keys: KeyStore, provider: FakeProvider
) -> None:
    key = new_key()
    await keys.add(key)
    wrong = f"tg-{key.id}-{'t' * 40}"
    for given in (wrong, f"tg-zzzzzzzz-{SECRET}", "tg-nonsense"):
        answer = await ask(enforcing, {"x-api-key": given})
        assert code(answer) == (401, "invalid_key")
        assert answer.headers["x-should-retry"] == "false"
        assert given not in answer.text
    assert not provider.journal


async def test_what_a_key_allows(
    enforcing: Gateway, keys: KeyStore, provider: FakeProvider, task: str
) -> None:
    key = new_key(
        models=("gpt-*",), upstreams=("openai",), may_set=("phase",), pins=TagTexts(task=task)
    )
    await keys.add(key)
    own = {"x-api-key": text(key)}
    assert code(await ask(enforcing, own, model="o3")) == (403, "forbidden_model")
    assert code(await ask(enforcing, {**own, "x-task-id": "T"})) == (403, "forbidden_tag")
    async with enforcing.client() as client:
        answer = await client.post("/u/gemini/v1/chat/completions", json=CHAT, headers=own)
    assert code(answer) == (403, "forbidden_upstream")
    assert not provider.journal
    answer = await ask(enforcing, {**own, "x-task-phase": "PLAN"})
    assert answer.status_code == 200
    assert answer.headers["x-tollgate-task"] == task
    assert answer.headers["x-tollgate-phase"] == WorkPhase.PLAN
    await enforcing.settled(task, 1)


async def test_a_key_cannot_raise_its_tasks_budget(
    enforcing: Gateway, keys: KeyStore, task: str
) -> None:
    """Neither by asking where calls go for what the admin plane does, nor by another claim."""
    key = new_key(may_claim_critical=True)
    await keys.add(key)
    own = {"x-task-id": task, "x-api-key": text(key)}
    assert (await ask(enforcing, {**own, "x-task-complexity": "tiny"})).status_code == 200
    limits = limits_of(await enforcing.settled(task, 1))
    assert limits
    grant = {"kind": "grant", "tokens": 10**6, "approver": "me", "reason": "more"}
    async with enforcing.client() as client:
        answer = await client.post(f"/admin/v1/tasks/{task}/overrides", json=grant, headers=own)
    assert code(answer) == (404, "unknown_route")
    claims = {"x-task-complexity": "large", "x-task-importance": "critical"}
    assert (await ask(enforcing, {**own, **claims})).status_code == 200
    assert limits_of(await enforcing.settled(task, 2)) == limits


async def test_PM6_leaving_out_the_key_is_no_way_to_a_larger_budget(
    enforcing: Gateway, keys: KeyStore, start_gateway: StartGateway, task: str
) -> None:
    """Where there are keys, who brings none claims `high` at most; its task shows it."""
    await keys.add(new_key())
    gateway = await start_gateway(mode="enforce", TOLLGATE_REDIS__URL=enforcing.store_url)
    claim = {"x-task-id": task, "x-task-importance": "critical"}
    assert (await ask(gateway, claim)).status_code == 200
    shown = (await gateway.admin("GET", f"/admin/v1/tasks/{task}")).json()
    assert shown["importance"] == "high"


async def test_untagged_calls_are_counted_by_key(enforcing: Gateway, keys: KeyStore) -> None:
    key = new_key()
    await keys.add(key)
    assert (await ask(enforcing, {"x-api-key": text(key)})).status_code == 200
    fields = await enforcing.settled(f"-{key.id}", 1)
    assert fields["calls.S"] == "1"


async def test_a_change_holds_for_the_next_call_through_another_gateway(
    enforcing: Gateway,
    keys: KeyStore,
    start_gateway: StartGateway,
    provider: FakeProvider,
    task: str,
) -> None:
    """Both have a copy of the key; neither is told; each call asks the store."""
    other = await start_gateway(mode="enforce", TOLLGATE_REDIS__URL=enforcing.store_url)
    key = new_key()
    await keys.add(key)
    headers = {"x-task-id": task, "authorization": f"Bearer {text(key)}"}
    for gateway in (enforcing, other):
        assert (await ask(gateway, headers)).status_code == 200
    await keys.change(key.id, lambda old: changed(old, models=("o3",)))
    for gateway in (enforcing, other):
        assert code(await ask(gateway, headers)) == (403, "forbidden_model")
    await keys.change(key.id, lambda old: changed(old, models=(), refusal_status=402))
    for gateway in (enforcing, other):
        assert (await ask(gateway, headers)).status_code == 200
    await keys.change(key.id, lambda old: changed(old, revoked_ms=1))
    for gateway in (enforcing, other):
        answer = await ask(gateway, headers)
        assert code(answer) == (401, "invalid_key")
        assert key.id in answer.text
    assert len(provider.journal) == 4
    assert (await enforcing.settled(task, 4))["tokens.H"] == "0"


@pytest.mark.parametrize("tracking", ["true", "false"])
async def test_a_revoked_key_is_good_for_nothing_where_nothing_is_reserved(
    start_gateway: StartGateway, enforcing: Gateway, keys: KeyStore, tracking: str
) -> None:
    """Lists of models, an agent's own budget, and all calls of a gateway that tracks nothing."""
    gateway = await start_gateway(
        TOLLGATE_REDIS__URL=enforcing.store_url, TOLLGATE_TRACKING__ENABLED=tracking
    )
    key = new_key()
    await keys.add(key)
    headers = {"authorization": f"Bearer {text(key)}", "x-task-id": "T"}
    paths = ["/v1/models", *(["/v1/budget"] if tracking == "true" else [])]
    async with gateway.client() as client:
        for path in paths:
            assert (await client.get(path, headers=headers)).status_code == 200
        await keys.change(key.id, lambda old: changed(old, revoked_ms=1))
        for path in paths:
            assert code(await client.get(path, headers=headers)) == (401, "invalid_key")
    assert code(await ask(gateway, headers)) == (401, "invalid_key")


async def test_a_key_can_be_asked_of_everybody(
    start_gateway: StartGateway, enforcing: Gateway, keys: KeyStore, provider: FakeProvider
) -> None:
    """Then the gateway may listen beyond loopback."""
    gateway = await start_gateway(
        mode="enforce",
        TOLLGATE_REDIS__URL=enforcing.store_url,
        TOLLGATE_KEYS__REQUIRED="true",
        TOLLGATE_SERVER__HOST="0.0.0.0",  # noqa: S104
    )
    answer = await ask(gateway, {"authorization": "Bearer sk-own"})
    assert code(answer) == (401, "invalid_key")
    assert "X-Tollgate-Key" in answer.json()["error"]["message"]
    assert not provider.journal
    key = new_key()
    await keys.add(key)
    assert (await ask(gateway, {"x-api-key": text(key)})).status_code == 200
