"""WebSockets end to end: the real openai SDK, the real gateway, the provider's journal as truth."""

import asyncio
import json
from typing import Any

import openai
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from loadtest.fake_provider import FakeProvider, Received, Script
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import PATIENCE_S, Gateway, until
from tests.e2e.test_dialects import assert_exact

pytestmark = pytest.mark.asyncio(loop_scope="session")

CREATE = {"type": "response.create", "model": "gpt-5.6", "input": "hello there"}
OUTPUT = Script(completion_tokens=37, reasoning_tokens=5, cached_tokens=3)
SPENT = Script(prompt_tokens=60_000)
TERMINAL = {"response.completed", "response.incomplete", "response.failed", "response.done"}


@pytest.fixture(params=["observing", "enforcing"])
def running(request: pytest.FixtureRequest, gateway: Gateway, enforcing: Gateway) -> Gateway:
    """The gateway in either mode."""
    return gateway if request.param == "observing" else enforcing


def sdk(gateway: Gateway, path: str = "/v1") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{gateway.url}{path}",
        api_key="sk-test",
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


def socket(gateway: Gateway, task: str, target: str = "/v1/responses", **options: Any) -> connect:
    headers = {"x-task-id": task, **options.pop("headers", {})}
    url = gateway.url.replace("http://", "ws://") + target
    return connect(url, additional_headers=headers, proxy=None, max_size=None, **options)


async def say(connection: ClientConnection, event: Any) -> None:
    await connection.send(json.dumps(event))


async def hear(connection: ClientConnection) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return json.loads(await connection.recv())


async def hear_until(connection: ClientConnection, *kinds: str) -> list[Any]:
    heard = []
    while not heard or heard[-1]["type"] not in kinds:
        heard.append(await hear(connection))
    return heard


async def closed(connection: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                await connection.recv()
    return connection.close_code or 0, connection.close_reason or ""


async def test_responses_with_the_openai_sdk(
    running: Gateway, provider: FakeProvider, task: str
) -> None:
    """Acceptance: every turn of the SDK's socket is metered to the token."""
    provider.script(lambda _: OUTPUT)
    async with sdk(running) as client:
        async with client.responses.connect(extra_headers={"x-task-id": task}) as connection:
            for _ in range(3):
                await connection.response.create(model="gpt-5.6", input="hello")
                text, kind = "", ""
                while kind != "response.completed":
                    event = await connection.recv()
                    kind = event.type
                    text += event.delta if kind == "response.output_text.delta" else ""
                assert text.count("word ") == 32
    fields = await running.settled(task, 3)
    assert_exact(fields, provider.totals())


async def test_the_url_names_task_and_upstream(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    async with sdk(gateway, f"/t/{task}/BUILD/u/openai/v1") as client:
        async with client.responses.connect() as connection:
            await connection.response.create(model="gpt-5.6", input="hello")
            while (await connection.recv()).type != "response.completed":
                pass
    assert_exact(await gateway.settled(task, 1), provider.totals())


async def test_realtime_with_the_openai_sdk(
    running: Gateway, provider: FakeProvider, task: str
) -> None:
    """Responses that are asked for, that come by themselves, and transcription beside them."""
    provider.script(lambda _: Script(completion_tokens=9, cached_tokens=2, prompt_tokens=50))
    async with sdk(running) as client:
        async with client.realtime.connect(
            model="gpt-realtime", extra_headers={"x-task-id": task}
        ) as connection:
            assert (await connection.recv()).type == "session.created"
            await connection.response.create()
            while (await connection.recv()).type != "response.done":
                pass
            await connection.input_audio_buffer.commit()
            heard = []
            while "response.done" not in heard:
                heard.append((await connection.recv()).type)
            assert "conversation.item.input_audio_transcription.completed" in heard
    assert_exact(await running.settled(task, 3), provider.totals())


async def test_parallel_runs_are_calls_of_their_own(
    running: Gateway, provider: FakeProvider, task: str
) -> None:
    def script(request: Received) -> Script:
        lane = json.loads(request.body)["stream_id"]
        return Script(completion_tokens=10 + int(lane), chunk_delay_ms=2)

    provider.script(script)
    async with socket(running, task) as connection:
        for lane in range(4):
            await say(connection, {**CREATE, "stream_id": str(lane)})
        ended: list[str] = []
        while len(ended) < 4:
            event = await hear(connection)
            if event["type"] in TERMINAL:
                ended.append(event["stream_id"])
    assert sorted(ended) == ["0", "1", "2", "3"]
    assert_exact(await running.settled(task, 4), provider.totals())


async def test_a_successor_that_nobody_asked_for_is_metered(
    running: Gateway, provider: FakeProvider, task: str
) -> None:
    async with socket(running, task) as connection:
        await say(connection, {"type": "response.steer", "input": "go left"})
        await hear_until(connection, "response.completed")
    assert_exact(await running.settled(task, 1), provider.totals())


async def test_a_spent_task_reads_its_refusal_and_then_the_close(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """Nothing is forwarded; the event has both shapes that clients read."""
    provider.script(lambda _: SPENT)
    async with socket(enforcing, task) as connection:
        await say(connection, CREATE)
        await hear_until(connection, "response.completed")
        await enforcing.settled(task, 1)
        await say(connection, {**CREATE, "stream_id": "a", "event_id": "mine"})
        event = await hear(connection)
        assert event["type"] == "error"
        assert event["status"] == 400
        assert event["error"]["type"] == "billing_error"
        assert event["error"]["code"] == event["code"] == "runaway_task"
        assert event["stream_id"] == "a"
        assert event["error"]["event_id"] == "mine"
        code, reason = await closed(connection)
    assert code == 1008
    assert reason.startswith("runaway_task: Task ")
    assert provider.totals().calls == 1
    assert_exact(await enforcing.settled(task, 1), provider.totals())


async def test_the_sdk_reads_the_refusal(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    provider.script(lambda _: SPENT)
    async with sdk(enforcing) as client:
        async with client.responses.connect(extra_headers={"x-task-id": task}) as connection:
            await connection.response.create(model="gpt-5.6", input="hello")
            while (await connection.recv()).type != "response.completed":
                pass
            await enforcing.settled(task, 1)
            await connection.response.create(model="gpt-5.6", input="hello")
            event: Any = await connection.recv()
            assert event.type == "error"
            assert event.code == "runaway_task"
            assert "exceeded token budget" in event.message
            with pytest.raises((openai.OpenAIError, websockets.ConnectionClosed)):
                await connection.recv()
    assert provider.totals().calls == 1


async def test_RBK2_an_open_socket_follows_the_switch(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """Off and on again while it is open: the very next response.create is let through, or refused."""
    provider.script(lambda _: SPENT)
    act = {"approver": "ann", "reason": "a test"}
    async with socket(enforcing, task) as connection:
        await say(connection, CREATE)
        await hear_until(connection, "response.completed")
        await enforcing.settled(task, 1)
        off = {"enabled": False, **act}
        assert (await enforcing.admin("POST", "/admin/v1/enforcement", off)).status_code == 200
        try:
            await say(connection, CREATE)
            await hear_until(connection, "response.completed")
            await enforcing.settled(task, 2)
        finally:
            on = {"enabled": True, **act}
            assert (await enforcing.admin("POST", "/admin/v1/enforcement", on)).status_code == 200
        await say(connection, CREATE)
        assert (await hear(connection))["code"] == "runaway_task"
        assert (await closed(connection))[0] == 1008
    assert enforcing.number(task, "would_refuse.calls") == 1
    assert provider.totals().calls == 2


async def test_responses_that_come_by_themselves_stop_at_the_budget(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """What nobody asked for cannot be refused beforehand: it is charged, and the socket ends."""
    provider.script(lambda _: Script(prompt_tokens=60_000, completion_tokens=5))
    async with socket(enforcing, task) as connection:
        await say(connection, CREATE)
        await hear_until(connection, "response.completed")
        await enforcing.settled(task, 1)
        provider.script(
            lambda _: Script(prompt_tokens=70, completion_tokens=500, chunk_delay_ms=20)
        )
        await say(connection, {"type": "response.steer", "input": "more"})
        assert (await hear_until(connection, "error"))[-1]["code"] == "runaway_task"
        assert (await closed(connection))[0] == 1008
    fields = await enforcing.settled(task, 2)
    assert int(fields["tokens.S"]) > 60_005
    assert int(fields["estimated.calls"]) == 1


async def test_a_clamp_goes_into_the_event(
    start_gateway: StartGateway, provider: FakeProvider, task: str, worst_case: str
) -> None:
    gateway = await start_gateway(TOLLGATE_POLICIES__DIR=worst_case)
    provider.script(lambda _: Script(completion_tokens=60_000, prompt_tokens=3))
    async with socket(gateway, task) as connection:
        await say(connection, {**CREATE, "max_output_tokens": 90_000})
        heard = await hear_until(connection, "response.incomplete", "error")
    assert heard[-1]["type"] == "response.incomplete"
    fields = await gateway.settled(task, 1)
    assert_exact(fields, provider.totals())
    assert int(fields["tokens.S"]) <= 28_080


async def test_a_client_that_leaves_is_charged_what_was_seen(
    running: Gateway, provider: FakeProvider, task: str
) -> None:
    provider.script(lambda _: Script(completion_tokens=500, chunk_delay_ms=20, prompt_tokens=40))
    async with socket(running, task) as connection:
        await say(connection, CREATE)
        await hear_until(connection, "response.output_text.delta")
        connection.transport.abort()
    fields = await running.settled(task, 1)
    assert int(fields["estimated.calls"]) == 1
    assert int(fields["tokens.S"]) > 0
    await until(lambda: provider.journal and provider.journal[0].aborted, "the provider's stop")


async def test_a_provider_that_breaks_off_is_told_to_the_client(
    running: Gateway, provider: FakeProvider, task: str
) -> None:
    provider.script(lambda _: Script(completion_tokens=50, fault="cut:10"))
    async with socket(running, task) as connection:
        await say(connection, CREATE)
        assert (await closed(connection))[0] == 1011
    assert int((await running.settled(task, 1))["estimated.calls"]) == 1


async def test_a_providers_close_is_relayed(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    async with socket(gateway, task) as connection:
        await say(connection, {"type": "fake.close", "code": 4001, "reason": "60 minutes"})
        assert await closed(connection) == (4001, "60 minutes")


async def test_an_error_before_the_response_costs_nothing(
    running: Gateway, provider: FakeProvider, task: str
) -> None:
    provider.script(lambda _: Script(fault="status:400"))
    async with socket(running, task) as connection:
        await say(connection, CREATE)
        assert (await hear(connection))["type"] == "error"
        provider.script(None)
        await say(connection, CREATE)
        await hear_until(connection, "response.completed")
    fields = await running.settled(task, 2)
    truth = provider.totals()
    assert int(fields["tokens.S"]) == truth.prompt_tokens + truth.completion_tokens


async def test_a_refused_handshake_is_the_answer_that_it_is(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with socket(gateway, task, headers={"authorization": "Bearer bad-key"}):
            pass
    response = refused.value.response
    assert response.status_code == 401
    assert json.loads(response.body)["error"]["code"] == "invalid_api_key"
    assert response.headers["x-tollgate-task"] == task


async def test_other_routes_take_no_sockets(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with socket(gateway, task, "/v1/chat/completions"):
            pass
    assert refused.value.response.status_code == 404


@pytest.mark.parametrize(
    "message",
    [b'{"type":"response.create"}', "no json", "[]", '{"type":"x","type":"response.create"}'],
)
async def test_what_cannot_be_read_for_sure_is_not_forwarded(
    gateway: Gateway, provider: FakeProvider, task: str, message: str | bytes
) -> None:
    async with socket(gateway, task) as connection:
        await connection.send(message)
        assert (await hear(connection))["code"] == "invalid_body"
        await say(connection, {"type": "other"})
        assert (await hear(connection))["of"] == "other"
    assert len(provider.sockets[-1].messages) == 1


async def test_messages_are_relayed_as_they_are(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """Byte for byte, in whatever frames they came; pings are answered."""
    text = json.dumps({"type": "other", "text": "é\u2028" * 300_000}, ensure_ascii=False)
    async with socket(gateway, task) as connection:
        await connection.send(text)
        await connection.send([text[:5], text[5:1_000], "", text[1_000:]])
        for _ in range(2):
            await hear(connection)
        await (await connection.ping())
        await say(connection, {"type": "fake.ping"})
        await say(connection, {"type": "other"})
        await hear(connection)
    assert provider.sockets[-1].messages[:2] == [text, text]


async def test_what_goes_to_the_provider(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """No extension, no tags; the subprotocol with the key goes on and is never logged."""
    protocols = ["realtime", "openai-insecure-api-key.sk-secret"]
    async with socket(gateway, task, "/v1/realtime?model=m", subprotocols=protocols) as connection:
        assert connection.subprotocol == "realtime"
        await hear(connection)
        await say(connection, {"type": "response.create"})
        await hear_until(connection, "response.done")
    request = provider.requests[-1]
    assert request.header(b"sec-websocket-extensions") is None
    assert request.header(b"x-task-id") is None
    assert (
        request.header(b"sec-websocket-protocol") == b"realtime, openai-insecure-api-key.sk-secret"
    )
    await gateway.settled(task, 1)
    await until(lambda: gateway.log_events("call", task=task) or gateway.log_events(task=task))
    assert "sk-secret" not in gateway.log_text


async def test_open_responses_end_before_a_worker_does(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    gateway = await start_gateway()
    provider.script(lambda _: Script(completion_tokens=30, chunk_delay_ms=30))
    async with socket(gateway, task) as connection:
        await say(connection, CREATE)
        await hear_until(connection, "response.output_text.delta")
        stopping = asyncio.ensure_future(gateway.stop())
        await hear_until(connection, "response.completed")
        assert (await closed(connection))[0] == 1001
        await stopping
    assert provider.journal[0].finished


async def test_RBK2_without_tracking_sockets_are_relayed_and_nothing_else(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """No headers of ours, nothing held, nothing counted."""
    gateway = await start_gateway(mode="enforce", TOLLGATE_TRACKING__ENABLED="false")
    async with socket(gateway, task) as connection:
        answer = connection.response
        assert answer is not None
        assert [name for name in answer.headers if name.lower().startswith("x-tollgate")] == []
        await say(connection, CREATE)
        assert (await hear_until(connection, *TERMINAL))[-1]["type"] == "response.completed"
    assert gateway.task(task) == {}
