"""The other dialects of the fake provider: shapes as documented, and an exact journal."""

import json
from typing import Any

import pytest

from loadtest.fake_provider import FakeProvider, Script
from tests.loadtest.wire import Wire, request

ASKED = [{"role": "user", "content": "Hi"}]
PARTS = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
OUTPUT = Script(completion_tokens=9, reasoning_tokens=2, cached_tokens=3, prompt_tokens=20)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("/v1/messages", {"model": "m", "max_tokens": 50, "messages": ASKED}),
    "responses": ("/v1/responses", {"model": "m", "input": "Hi"}),
    "completions": ("/v1/completions", {"model": "m", "prompt": "Hi"}),
    "gemini": ("/v1beta/models/m:generateContent", PARTS),
}


def post(target: str, body: object) -> bytes:
    return request("POST", target, json.dumps(body).encode())


@pytest.mark.parametrize(("target", "body"), WAYS.values(), ids=WAYS)
async def test_the_journal_knows_each_call(
    provider: FakeProvider, target: str, body: dict[str, Any]
) -> None:
    """Whole and streamed it costs the same."""
    provider.script(lambda _: OUTPUT)
    streamed = target.replace(":g", ":streamG") + ("?alt=sse" if ":" in target else "")
    async with Wire(provider.base_url) as wire:
        assert (await wire.ask(post(target, body))).status == 200
        assert (await wire.ask(post(streamed, {**body, "stream": True}))).status == 200
    totals = provider.totals()
    assert (totals.calls, totals.prompt_tokens, totals.completion_tokens) == (2, 40, 18)
    assert (totals.cached_tokens, totals.reasoning_tokens) == (6, 4)


MEDIA = {
    "chat": ("/api/chat", {"model": "m", "messages": ASKED}),
    "generate": ("/api/generate", {"model": "m", "prompt": "Hi"}),
    "images": ("/v1/images/generations", {"model": "m", "prompt": "Hi"}),
}


@pytest.mark.parametrize(("target", "body"), MEDIA.values(), ids=MEDIA)
async def test_what_has_nothing_cached_costs_the_same_whole_and_streamed(
    provider: FakeProvider, target: str, body: dict[str, Any]
) -> None:
    """Ollama's lines end with its counts, a picture's events with its usage."""
    provider.script(lambda _: OUTPUT)
    async with Wire(provider.base_url) as wire:
        await wire.ask(post(target, {**body, "stream": False}))
        streamed = await wire.ask(post(target, {**body, "stream": True}))
    assert (b'"eval_count":9' in streamed.body) == target.startswith("/api/")
    assert (b'"output_tokens":9' in streamed.body) == target.startswith("/v1/")
    totals = provider.totals()
    assert (totals.calls, totals.prompt_tokens, totals.completion_tokens) == (2, 40, 18)
    assert (totals.cached_tokens, totals.reasoning_tokens) == (0, 0)


async def test_a_gemini_array_is_json(provider: FakeProvider) -> None:
    """However many chunks it has; the last one's counts are the call's."""
    async with Wire(provider.base_url) as wire:
        for tokens in (0, 1, 40):
            provider.script(lambda _, n=tokens: Script(completion_tokens=n, prompt_tokens=20))
            target = "/v1/models/m:streamGenerateContent"
            chunks = json.loads((await wire.ask(post(target, PARTS))).body)
            assert chunks[-1]["usageMetadata"]["totalTokenCount"] == 20 + tokens


@pytest.mark.parametrize("target", ["/v1/messages", "/v1/responses", "/v1/completions"])
async def test_what_is_required_is_demanded(provider: FakeProvider, target: str) -> None:
    """As the provider does."""
    async with Wire(provider.base_url) as wire:
        assert (await wire.ask(post(target, {"model": "m"}))).status == 400
        assert (await wire.ask(post("/v1/models/m:generateContent", {}))).status == 400
