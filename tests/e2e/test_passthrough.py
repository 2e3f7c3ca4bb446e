"""What is not metered is not touched; what is metered is touched no more than it must be."""

import json
import random
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until
from tests.server.client import Client, Reply
from tests.store.valkey_server import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1_048_576
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say something."}]}
EVERY_BYTE = bytes(range(256))

ALWAYS = {
    "x-tollgate-call-id",
    "x-tollgate-decision",
    "x-tollgate-task",
    "x-tollgate-phase",
    "x-tollgate-policy",
}
BUDGET = {
    *(
        f"x-budget-{s}-tokens-{k}"
        for s in ("task", "phase")
        for k in ("limit", "used", "remaining")
    ),
    "x-budget-task-cost-usd-used",
    "x-budget-status",
    "x-budget-pressure",
}
USE_3 = "Budget tracker using estimated tokens (model response lacked usage data)"


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def ours(headers: httpx.Headers) -> set[str]:
    return {name for name in headers if name.startswith(("x-tollgate-", "x-budget-"))}


def raw(method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: t", *lines, "", ""])
    return head.encode("latin-1") + body


def raw_chat(task: str, *lines: str, **fields: object) -> bytes:
    data = json.dumps(CHAT | fields).encode()
    tags = (f"X-Task-Id: {task}", f"Content-Length: {len(data)}")
    return raw("POST", "/v1/chat/completions", *tags, *lines, body=data)


# Bodies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/v1/echo", "/v1/echo?key=a%2Fb&x=%7E+1", "/u/openai/v1/echo"])
async def test_a_binary_body_comes_back_as_it_went(
    gateway: Gateway, provider: FakeProvider, target: str
) -> None:
    """Every byte value, and the target as it was written."""
    async with gateway.client() as client:
        answer = await client.post(
            target, content=EVERY_BYTE, headers={"content-type": "audio/x-odd"}
        )
    assert answer.content == EVERY_BYTE
    assert answer.headers["content-type"] == "audio/x-odd"
    assert answer.headers["content-length"] == "256"
    assert provider.requests[0].body == EVERY_BYTE
    assert provider.requests[0].target == target.removeprefix("/u/openai")


async def test_head(gateway: Gateway) -> None:
    """No body, the headers of GET, and the connection goes on."""
    async with Client(port_of(gateway.url)) as client:
        reply = await client.ask(raw("HEAD", "/v1/models"))
        whole = await client.ask(raw("GET", "/v1/models"))
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-length"] == str(len(whole.body))


async def test_no_content(gateway: Gateway) -> None:
    """204 has neither body nor framing, and the connection goes on."""
    async with Client(port_of(gateway.url)) as client:
        reply = await client.ask(raw("GET", "/v1/no-content"))
        assert reply.status == 204
        assert not {"content-length", "transfer-encoding"} & set(reply.headers)
        assert (await client.ask(raw("GET", "/v1/models"))).status == 200


@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_a_body_that_ends_with_the_connection(gateway: Gateway, size: int) -> None:
    """It is framed anew, so that the client's connection can go on."""
    async with Client(port_of(gateway.url)) as client:
        reply = await client.ask(raw("GET", f"/v1/until-close?n={size}"))
        assert (reply.complete, len(reply.body)) == (True, size)
        assert reply.headers["transfer-encoding"] == "chunked"
        assert (await client.ask(raw("GET", "/v1/models"))).status == 200


async def test_thirty_megabytes_down(gateway: Gateway) -> None:
    """A long chunked answer comes whole."""
    async with gateway.client() as client:
        answer = await client.get(f"/v1/stream-bytes?n={30 * MIB}")
    assert len(answer.content) == 30 * MIB


async def test_thirty_megabytes_up_and_down(gateway: Gateway) -> None:
    """A long body goes up, and comes back the same."""
    body = random.Random(30).randbytes(30 * MIB)
    async with gateway.client() as client:
        answer = await client.post("/v1/echo", content=body)
    assert answer.content == body


async def test_a_chunked_upload(gateway: Gateway, provider: FakeProvider) -> None:
    """It arrives whole, with its length stated."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number]) * 1_000

    async with gateway.client() as client:
        answer = await client.post("/v1/echo", content=pieces())
    assert len(answer.content) == 100_000
    assert provider.requests[0].header(b"content-length") == b"100000"
    assert provider.requests[0].header(b"transfer-encoding") is None


async def test_an_upload_that_asks_first(gateway: Gateway, provider: FakeProvider) -> None:
    """The gateway answers 100-continue itself and does not ask the provider."""
    async with Client(port_of(gateway.url)) as client:
        head = raw("POST", "/v1/echo", "Expect: 100-continue", "Content-Length: 256")
        assert (await client.ask(head)).status == 100
        assert (await client.ask(EVERY_BYTE)).body == EVERY_BYTE
    assert provider.requests[0].header(b"expect") is None


async def test_trailers_and_chunk_extensions_end_here(
    gateway: Gateway, provider: FakeProvider
) -> None:
    """What comes after a body cannot become a header upstream."""
    body = b"5;a=b\r\nhello\r\n0\r\nX-Task-Id: late\r\nX-Evil: 1\r\n\r\n"
    async with Client(port_of(gateway.url)) as client:
        reply = await client.ask(raw("POST", "/v1/echo", "Transfer-Encoding: chunked", body=body))
    assert reply.body == b"hello"
    assert reply.headers["x-tollgate-task"] == "-"
    assert provider.requests[0].header(b"x-evil") is None
    assert provider.requests[0].trailers == []


async def test_pipelined_calls_are_answered_in_order(gateway: Gateway, task: str) -> None:
    """Whatever each takes."""
    async with Client(port_of(gateway.url)) as client:
        client.send(
            raw_chat(task, "X-Fake-Ttfb-Ms: 100") + raw("GET", "/v1/models") + raw_chat(task)
        )
        kinds = [(await client.reply()).json["object"] for _ in range(3)]
    assert kinds == ["chat.completion", "list", "chat.completion"]
    await gateway.settled(task, 2)


# Headers ------------------------------------------------------------------------------------------

HOP_BY_HOP = (
    "Connection: keep-alive, X-Private",
    "X-Private: 1",
    "Keep-Alive: timeout=5",
    "TE: trailers",
    "Trailer: X-T",
    "Proxy-Authorization: Basic eA==",
    "Proxy-Connection: keep-alive",
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-Proto: https",
    "Forwarded: for=1.2.3.4",
)
TAGS = (
    "X-Task-Id: headers",
    "X-Task-Phase: PLAN",
    "X-Phase: THINK",
    "X-Task-Complexity: Large",
    "X-Task-Importance: high",
    "X-Task-Parent: none",
    "X-Task-Grace: 1",
    "Baggage: task.id=x,user=7;p=1,task.phase=PLAN",
)


@pytest.mark.parametrize("metered", [False, True], ids=["passed through", "metered"])
async def test_headers_that_end_here(
    gateway: Gateway, provider: FakeProvider, metered: bool
) -> None:
    """Hop-by-hop headers, those that `Connection` names, tags: none reaches the provider."""
    body = json.dumps(CHAT).encode()
    target = "/v1/chat/completions" if metered else "/v1/echo"
    kept = ("X-Kept: 1", "Cookie: a=b", "User-Agent: me/1.0", "OpenAI-Organization: org")
    lines = (*HOP_BY_HOP, *TAGS, *kept, f"Content-Length: {len(body)}")
    async with Client(port_of(gateway.url)) as client:
        assert (await client.ask(raw("POST", target, *lines, body=body))).status == 200
    received = {(name.lower(), value) for name, value in provider.requests[0].headers}
    expected = {
        (b"host", urlsplit(provider.base_url).netloc.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-kept", b"1"),
        (b"cookie", b"a=b"),
        (b"user-agent", b"me/1.0"),
        (b"openai-organization", b"org"),
        (b"baggage", b"user=7;p=1"),
    }
    assert received == expected | ({(b"accept-encoding", b"identity")} if metered else set())


async def test_tags_go_on_where_the_upstream_wants_them(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    """`forward_tags` is for another gateway behind this one."""
    gateway = await start_gateway(TOLLGATE_UPSTREAMS__OPENAI__FORWARD_TAGS="true")
    async with gateway.client() as client:
        headers = {"x-task-id": "a", "baggage": "task.phase=PLAN"}
        await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert provider.requests[0].header(b"x-task-id") == b"a"
    assert provider.requests[0].header(b"baggage") == b"task.phase=PLAN"


async def answers_of_all_kinds(gateway: Gateway, task: str) -> dict[str, httpx.Response]:
    """Return answers by what they are."""
    tags = {"x-task-id": task, "x-task-phase": "VERIFY"}
    spend = tags | {"x-fake-prompt-tokens": "40000"}
    async with gateway.client() as client:
        return {
            "JSON": await client.post("/v1/chat/completions", json=CHAT, headers=tags),
            "SSE": await client.post(
                "/v1/chat/completions", json={**CHAT, "stream": True}, headers=spend
            ),
            "refusal": await refused(client, gateway, task),
            "passthrough": await client.get("/v1/models", headers=tags),
            "provider's error": await client.get("/v1/nothing", headers=tags),
            "unknown route": await client.get("/nowhere", headers=tags),
            "unknown upstream": await client.get("/u/nobody/v1/models", headers=tags),
            "invalid body": await client.post("/v1/chat/completions", content=b"{", headers=tags),
        }


async def refused(client: httpx.AsyncClient, gateway: Gateway, task: str) -> httpx.Response:
    """Return a refusal, once the calls before it are settled."""
    await gateway.settled(task, 2)
    tags = {"x-task-id": task, "x-task-phase": "VERIFY"}
    return await client.post("/v1/chat/completions", json=CHAT, headers=tags)


async def test_every_answer_says_what_the_contract_promises(enforcing: Gateway, task: str) -> None:
    """Of its call always, of the budget where it was asked for."""
    answers = await answers_of_all_kinds(enforcing, task)
    found = {kind: ours(answer.headers) for kind, answer in answers.items()}
    asked = {"JSON", "SSE", "refusal"}
    understood = {*asked, "passthrough", "provider's error"}
    assert found == {
        kind: ALWAYS
        | (BUDGET if kind in asked else set())
        | ({"x-tollgate-upstream"} if kind in understood else set())
        for kind in answers
    }
    ids = [answer.headers["x-tollgate-call-id"] for answer in answers.values()]
    assert len(set(ids)) == len(ids)
    for answer in answers.values():
        assert answer.headers["x-tollgate-task"] == task
        assert answer.headers["x-tollgate-phase"] == "VERIFY"
    policies = {answer.headers["x-tollgate-policy"] for answer in answers.values()}
    assert policies == {(await enforcing.ready())["policy_hash"]}
    assert [answers[kind].headers["x-tollgate-decision"] for kind in sorted(asked)] == [
        "allow",
        "flag" if answers["SSE"].headers["x-budget-status"] != "within" else "allow",
        "refuse",
    ]


async def test_errors_of_our_own_are_json_with_a_code_and_the_call(
    enforcing: Gateway, task: str
) -> None:
    """In the shape that the caller's library reads."""
    answers = await answers_of_all_kinds(enforcing, task)
    codes = {
        "refusal": (400, "task_budget_exceeded"),
        "unknown route": (404, "unknown_route"),
        "unknown upstream": (404, "unknown_upstream"),
        "invalid body": (400, "invalid_body"),
    }
    for kind, (status, code) in codes.items():
        answer = answers[kind]
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-should-retry"] == "false"
        body = answer.json()
        assert body["error"]["code"] == code
        assert body["request_id"] == answer.headers["x-tollgate-call-id"]
    async with enforcing.client() as client:
        gemini = await client.get("/u/nobody/v1beta/models")
    assert gemini.json()["error"]["details"][0]["reason"] == "unknown_upstream"


# The provider's errors ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 503, 529])
@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_a_providers_error_passes_untouched(
    gateway: Gateway, provider: FakeProvider, task: str, status: int, stream: bool
) -> None:
    """Status, body and retry advice are the provider's; nothing is charged or stays held."""
    provider.script(lambda _: Script(fault=f"status:{status}"))
    direct = await ask(provider.base_url, raw_chat(task, stream=stream))
    through = await ask(gateway.url, raw_chat(task, stream=stream))
    assert (through.status, through.body) == (status, direct.body)
    assert through.headers.get("retry-after") == direct.headers.get("retry-after")
    assert "x-should-retry" not in through.headers
    fields = await gateway.settled(task, 1)
    assert (fields["tokens.S"], fields["nano_usd.S"]) == ("0", "0")
    assert "estimated.calls" not in fields


async def ask(url: str, data: bytes) -> Reply:
    async with Client(port_of(url)) as client:
        return await client.ask(data)


async def test_an_error_in_a_200(gateway: Gateway, provider: FakeProvider, task: str) -> None:
    """Some providers do that: nothing was generated, nothing is charged."""
    reply = await ask(gateway.url, raw_chat(task, "X-Fake-Fault: error_event:0"))
    assert "error" in reply.json
    assert (await gateway.settled(task, 1))["tokens.S"] == "0"


async def test_nobody_there(start_gateway: StartGateway, task: str) -> None:
    """502 with the call's id; nothing is charged or stays held."""
    gateway = await start_gateway(provider_url=f"http://127.0.0.1:{free_port()}")
    for _ in range(3):
        reply = await ask(gateway.url, raw_chat(task))
        assert (reply.status, reply.code) == (502, "upstream_unreachable")
        assert reply.json["request_id"] == reply.headers["x-tollgate-call-id"]
    fields = await gateway.settled(task)
    assert (fields["tokens.S"], fields["calls.S"]) == ("0", "0")
    assert reply.headers["x-budget-task-tokens-remaining"] == "23400"


async def test_a_provider_that_resets(gateway: Gateway, provider: FakeProvider, task: str) -> None:
    """The request may have been served: never sent twice, charged at its hold."""
    # A model of its own: what others' inputs came to teaches the gateway nothing about it.
    reply = await ask(
        gateway.url, raw_chat(task, "X-Fake-Fault: reset", max_tokens=100, model=task)
    )
    assert (reply.status, reply.code) == (502, "upstream_broken")
    assert len(provider.requests) == 1
    fields = await gateway.settled(task, 1)
    assert fields["estimated.calls"] == "1"
    assert int(fields["tokens.S"]) == 100 + -(-len(provider.requests[0].body) // 4)


async def test_a_provider_that_is_silent(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """After `read_timeout_ms` without a byte the client is told."""
    gateway = await start_gateway(TOLLGATE_UPSTREAMS__OPENAI__READ_TIMEOUT_MS="300")
    reply = await ask(gateway.url, raw_chat(task, "X-Fake-Fault: hang"))
    assert (reply.status, reply.code) == (504, "upstream_timeout")
    await gateway.settled(task, 1)


@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "not trusted"])
async def test_a_provider_behind_tls(
    start_gateway: StartGateway, tmp_path: Path, task: str, is_trusted: bool
) -> None:
    """Its certificate is checked against the authorities that are configured."""
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path / "ca.pem"
    (authority if is_trusted else other).cert_pem.write_to_path(str(file))
    async with FakeProvider(ssl=context) as provider:
        gateway = await start_gateway(
            provider_url=provider.base_url, TOLLGATE_UPSTREAMS__OPENAI__CA_FILE=str(file)
        )
        replies = [await ask(gateway.url, raw_chat(task, stream=True)) for _ in range(3)]
        if is_trusted:
            assert [reply.status for reply in replies] == [200] * 3
            assert all(reply.body.endswith(b"[DONE]\n\n") for reply in replies)
            fields = await gateway.settled(task, 3)
            assert near(fields, provider, tolerance=0)
            assert provider.connections_accepted == 1
        else:
            assert {reply.code for reply in replies} == {"upstream_unreachable"}
            assert "certificate" in replies[0].json["error"]["message"]
            assert not provider.requests


# Answers without usage ----------------------------------------------------------------------------


def near(fields: dict[str, str], provider: FakeProvider, tolerance: float = 0.05) -> bool:
    truth = provider.totals()
    real = truth.prompt_tokens + truth.completion_tokens
    return abs(int(fields["tokens.S"]) - real) <= tolerance * real


MUCH = [{"role": "user", "content": "Tell me about the weather in Paris. " * 40}]


@pytest.mark.parametrize("fault", ["missing_usage", "zero_usage"])
@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_missing_usage_is_estimated(
    gateway: Gateway, provider: FakeProvider, task: str, fault: str, stream: bool
) -> None:
    """Within five percent of the truth, marked, and warned about once per task and phase."""
    provider.script(lambda _: Script(completion_tokens=150, fault=fault))
    phases = ("PLAN", "PLAN", "THINK")
    for number, phase in enumerate(phases, start=1):
        data = raw_chat(task, f"X-Task-Phase: {phase}", stream=stream, messages=MUCH)
        assert (await ask(gateway.url, data)).complete
        fields = await gateway.settled(task, number)
    assert near(fields, provider)
    assert fields["estimated.calls"] == "3"
    assert fields["estimated.tokens"] == fields["tokens.S"]
    warnings = await until(
        lambda: (found := gateway.log_events("usage_missing", task=task))[1:] and found, "warnings"
    )
    assert [(w["message"], w["phase"], w["level"]) for w in warnings] == [
        (USE_3, "PLAN", "warning"),
        (USE_3, "THINK", "warning"),
    ]


async def test_an_upstream_that_cannot_be_asked_for_usage(
    start_gateway: StartGateway, provider: FakeProvider, task: str
) -> None:
    """Its streams are estimated, and its requests not edited."""
    gateway = await start_gateway(TOLLGATE_UPSTREAMS__OPENAI__INCLUDE_USAGE="false")
    await ask(gateway.url, raw_chat(task, stream=True, messages=MUCH))
    fields = await gateway.settled(task, 1)
    assert near(fields, provider)
    assert fields["estimated.calls"] == "1"
    assert b"stream_options" not in provider.requests[0].body


async def test_real_zeros_are_no_missing_usage(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """An answer without output that costs its input."""
    provider.script(lambda _: Script(prompt_tokens=7, completion_tokens=0))
    await ask(gateway.url, raw_chat(task))
    fields = await gateway.settled(task, 1)
    assert (fields["tokens.S"], "estimated.calls" in fields) == ("7", False)


# Answers that are cut -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut:10", "truncate", "error_event:10"])
async def test_a_cut_stream_is_cut_for_the_client_too(
    gateway: Gateway, provider: FakeProvider, task: str, fault: str
) -> None:
    """It gets every byte that there was, sees that it is not whole, and the call is settled."""
    provider.script(lambda _: Script(prompt_tokens=15, completion_tokens=60, fault=fault))
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    direct = await ask(provider.base_url, raw_chat(task, **asked))
    provider.reset()
    through = await ask(gateway.url, raw_chat(task, **asked))
    assert through.status == 200
    assert len(through.body) == len(direct.body)
    assert through.complete is direct.complete is False or fault.startswith("error")
    fields = await gateway.settled(task, 1)
    assert gateway.held(task) == (0, 0, 0, 0)
    if fault == "truncate":  # the usage had come
        assert fields["tokens.S"] == "75"
    else:
        assert fields["estimated.calls"] == "1"
        assert 10 <= int(fields["tokens.S"]) <= 30


async def test_a_cut_json_answer(gateway: Gateway, provider: FakeProvider, task: str) -> None:
    """It is billed in full though nobody can say what: its hold is charged."""
    reply = await ask(
        gateway.url, raw_chat(task, "X-Fake-Fault: cut:50", max_tokens=100, model=task)
    )
    assert (reply.status, reply.complete, len(reply.body)) == (200, False, 50)
    fields = await gateway.settled(task, 1)
    assert fields["estimated.calls"] == "1"
    assert int(fields["tokens.S"]) == 100 + -(-len(provider.requests[0].body) // 4)


async def test_a_client_that_leaves_a_json_call(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """The answer is read to its end all the same: it is billed in full."""
    async with Client(port_of(gateway.url)) as client:
        client.send(raw_chat(task, "X-Fake-Ttfb-Ms: 300"))
        await provider.until(lambda: len(provider.journal) == 1, 30)
    fields = await gateway.settled(task, 1)
    truth = provider.totals()
    assert int(fields["tokens.S"]) == truth.prompt_tokens + truth.completion_tokens
    assert "estimated.calls" not in fields
    assert provider.journal[0].finished
    await gateway_has_noticed(gateway, task)


async def gateway_has_noticed(gateway: Gateway, task: str) -> None:
    """Wait for the log line of a call whose client left."""
    await until(lambda: gateway.log_events("call", task=task, client_left=True), "the log line")


async def test_a_client_that_leaves_a_stream(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """The provider is told to stop; what was seen is charged."""
    async with Client(port_of(gateway.url)) as client:
        client.send(
            raw_chat(
                task, "X-Fake-Chunk-Delay-Ms: 20", "X-Fake-Completion-Tokens: 5000", stream=True
            )
        )
        await client.reader.readuntil(b'"content":" reads"')
    fields = await gateway.settled(task, 1)
    await provider.until(lambda: provider.journal[0].aborted, 30)
    assert provider.journal[0].completion_tokens < 500
    assert fields["estimated.calls"] == "1"
    assert 10 < int(fields["tokens.S"]) < 600
    await gateway_has_noticed(gateway, task)


# Requests that are not carried --------------------------------------------------------------------


async def test_a_body_over_the_limit(start_gateway: StartGateway, provider: FakeProvider) -> None:
    """413, and the provider hears nothing of it."""
    gateway = await start_gateway(TOLLGATE_LIMITS__MAX_BODY_BYTES="10000")
    async with gateway.client() as client:
        assert (await client.post("/v1/echo", content=b"x" * 10_000)).status_code == 200
        answer = await client.post("/v1/echo", content=b"x" * 10_001)
    assert answer.status_code == 413
    body = answer.json()
    assert body["error"]["code"] == "body_too_large"
    assert body["request_id"] == answer.headers["x-tollgate-call-id"] != "-"
    assert answer.headers["x-tollgate-decision"] == "refuse"
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_body"),
        (b"[]", "invalid_body"),
        (b"\xff", "invalid_body"),
        (b'{"model":"a","model":"b"}', "invalid_body"),
        (b'{"model":"a","Stream":true}', "invalid_body"),
        (b'{"max_tokens":"many"}', "invalid_body"),
    ],
)
async def test_a_chat_request_that_cannot_be_read(
    gateway: Gateway, provider: FakeProvider, task: str, data: bytes, code: str
) -> None:
    """It is not budgeted, so it is not sent."""
    async with gateway.client() as client:
        answer = await client.post(
            "/v1/chat/completions", content=data, headers={"x-task-id": task}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert not provider.requests
    assert not gateway.task(task)


async def test_an_encoded_chat_request(gateway: Gateway, provider: FakeProvider) -> None:
    """It could not be budgeted; the client is told to send it plain."""
    async with gateway.client() as client:
        headers = {"content-encoding": "gzip"}
        answer = await client.post("/v1/chat/completions", content=b"x", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert not provider.requests


@pytest.mark.parametrize(
    "target",
    ["/v1/../admin", "/v1/%2e%2e/x", "//evil.example/v1", "/v1/a%2fb/chat/completions", "/t/a"],
)
async def test_a_target_that_could_mean_another_place(
    gateway: Gateway, provider: FakeProvider, target: str
) -> None:
    """It is refused, not guessed at."""
    reply = await ask(gateway.url, raw("GET", target))
    assert (reply.status, reply.code) == (400, "invalid_target")
    assert not provider.requests


async def test_another_route_is_recorded_as_unmetered(
    gateway: Gateway, provider: FakeProvider, task: str
) -> None:
    """It costs the task nothing, and shows in log and metrics."""
    before = await gateway.metric("tollgate_calls_total", dialect="unmetered")
    async with gateway.client() as client:
        body = {"model": "omni-moderation-latest", "input": "hello"}
        await client.post("/v1/moderations?key=secret", json=body, headers={"x-task-id": task})
    await gateway.until_metric(before + 1, "tollgate_calls_total", dialect="unmetered")
    assert not gateway.task(task)
    (line,) = await until(lambda: gateway.log_events("call", task=task), "the log line")
    assert (line["path"], line["usage"], line["status"]) == ("/v1/moderations", "none", 200)


async def test_nothing_secret_is_logged(gateway: Gateway, task: str) -> None:
    """Neither prompts nor credentials nor queries."""
    async with gateway.client() as client:
        await client.post(
            "/v1/chat/completions?api-key=CANARY-1",
            json={**CHAT, "messages": [{"role": "user", "content": "CANARY-2"}]},
            headers={"authorization": "Bearer CANARY-3", "x-task-id": task, "cookie": "CANARY-4"},
        )
    await gateway.settled(task, 1)
    await until(lambda: gateway.log_events("call", task=task), "the log line")
    assert "CANARY" not in gateway.log_text
