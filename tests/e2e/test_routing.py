"""Routing with a gateway as it runs in production: by model, with its own keys, with a fallback."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest
import pytest_asyncio

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

OURS = "sk-ours-and-nobody-s"
CLIENT = "sk-of-the-client"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def _stand_in() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(completion_tokens=7)) as provider:
        yield provider


@pytest.fixture
def stand_in(_stand_in: FakeProvider) -> FakeProvider:
    """The other provider, with an empty journal."""
    _stand_in.script(None)
    _stand_in.reset()
    return _stand_in


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def _routed(
    tmp_path_factory: pytest.TempPathFactory, _one_provider: FakeProvider, _stand_in: FakeProvider
) -> AsyncIterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("routed")
    (folder / "key").write_text(f"{OURS}\n")
    config = folder / "gateway.yaml"
    other = _stand_in.base_url
    config.write_text(
        "upstreams:\n"
        "  openai: {fallback: [azure]}\n"
        f"  azure: {{base_url: '{other}', provider: azure, api_key_file: '{folder / 'key'}',"
        " models: [gpt-4o-*]}\n"
        f"  gemini_openai: {{base_url: '{other}/v1beta/openai', provider: gemini,"
        f" api_key: {OURS}, models: [gemini-*]}}\n"
        f"  local: {{base_url: '{other}', api_key: none, models: ['qwen*']}}\n"
    )
    options: dict[str, Any] = {"arguments": ("--config", str(config)), "mode": "enforce"}
    async with Gateway(folder / "state", _one_provider.base_url, **options) as gateway:
        yield gateway


@pytest.fixture
def routed(_routed: Gateway, provider: FakeProvider, stand_in: FakeProvider) -> Gateway:
    """A gateway with routes to both providers."""
    return _routed


@pytest_asyncio.fixture(loop_scope="session")
async def sdk(routed: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official SDK, which never asks twice by itself."""
    client = openai.AsyncOpenAI(
        base_url=f"{routed.url}/v1",
        api_key=CLIENT,
        max_retries=0,
        http_client=httpx.AsyncClient(trust_env=False),
    )
    yield client
    await client.close()


def secrets_in(provider: FakeProvider) -> set[str]:
    """Return which keys a provider was shown, anywhere."""
    shown = "".join(
        f"{request.target}{request.headers}{request.body!r}" for request in provider.requests
    )
    return {key for key in (OURS, CLIENT) if key in shown}


class Place(NamedTuple):
    """Where calls for a model go, and in which header of them our key stands, if any."""

    model: str
    upstream: str
    header: bytes = b""
    path: str = "/v1/chat/completions"


@pytest.mark.parametrize(
    "place",
    [
        Place("gpt-4o-mini", "azure", b"api-key"),
        Place(
            "gemini-2.5-pro", "gemini_openai", b"authorization", "/v1beta/openai/chat/completions"
        ),
        Place("qwen3", "local"),
    ],
    ids=lambda place: place.upstream,
)
async def test_a_model_s_name_says_where_a_call_goes(
    routed: Gateway,
    sdk: openai.AsyncOpenAI,
    provider: FakeProvider,
    stand_in: FakeProvider,
    task: str,
    place: Place,
) -> None:
    """With the key that is for it; the client's is shown to nobody."""
    answer = await sdk.chat.completions.with_raw_response.create(
        model=place.model, messages=MESSAGES, extra_headers={"X-Task-Id": task}
    )
    assert answer.headers["x-tollgate-upstream"] == place.upstream
    assert answer.parse().usage.completion_tokens == 7
    assert not provider.requests
    (request,) = stand_in.requests
    assert request.path == place.path
    assert secrets_in(stand_in) == ({OURS} if place.header else set())
    assert OURS.encode() in (request.header(place.header) or OURS.encode())
    served = stand_in.journal[0]
    fields = await routed.settled(task, 1)
    assert int(fields["tokens.S"]) == served.prompt_tokens + served.completion_tokens


async def test_other_models_and_named_upstreams(
    routed: Gateway, provider: FakeProvider, stand_in: FakeProvider
) -> None:
    """Go as before, with the client's own credential."""
    body = {"model": "gpt-4o-mini", "messages": MESSAGES}
    headers = {"Authorization": f"Bearer {CLIENT}"}
    async with routed.client(headers=headers) as client:
        for path, model in (("/v1/chat/completions", "o3"), ("/u/openai/v1/chat/completions", "")):
            said = {**body, "model": model or body["model"]}
            answer = await client.post(path, json=said)
            assert answer.headers["x-tollgate-upstream"] == "openai"
    assert len(provider.requests) == 2
    assert secrets_in(provider) == {CLIENT}
    assert not stand_in.requests


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_the_sdk_sees_one_good_answer(
    routed: Gateway,
    sdk: openai.AsyncOpenAI,
    provider: FakeProvider,
    stand_in: FakeProvider,
    task: str,
    stream: bool,
) -> None:
    """Though the first provider had none; each provider sees its own credential only."""
    provider.script(lambda _: Script(fault="status:429"))
    tags = {"X-Task-Id": task}
    if stream:
        events = await sdk.chat.completions.create(
            model="o3", messages=MESSAGES, stream=True, extra_headers=tags
        )
        text = "".join([event.choices[0].delta.content or "" async for event in events])
    else:
        answer = await sdk.chat.completions.create(
            model="o3", messages=MESSAGES, extra_headers=tags
        )
        text = answer.choices[0].message.content or ""
    assert text
    assert (len(provider.requests), len(stand_in.requests)) == (1, 1)
    assert (secrets_in(provider), secrets_in(stand_in)) == ({CLIENT}, {OURS})
    served = stand_in.journal[0]
    fields = await routed.settled(task, 1)
    assert int(fields["tokens.S"]) == served.prompt_tokens + served.completion_tokens
    assert routed.held(task) == (0, 0, 0, 0)


async def test_no_key_is_told_to_anybody(routed: Gateway, stand_in: FakeProvider) -> None:
    """Not in the log, the banner, the health reports, or the answers."""
    async with routed.client() as client:
        answer = await client.post(
            "/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": MESSAGES}
        )
    assert secrets_in(stand_in) == {OURS}
    told = [
        str(answer.headers),
        routed.banner,
        json.dumps(await routed.ready()),
        (await routed.admin("GET", "/metrics")).text,
        routed.log_text,
    ]
    assert not [text for text in told if OURS in text]
