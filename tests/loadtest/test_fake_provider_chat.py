"""The fake provider's model routes: what an answer says and what it costs."""

import json

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from loadtest.fake_provider import FakeProvider
from loadtest.provider_tokens import WORDS, count_chat, count_text, o200k
from tests.loadtest.wire import Wire, chat

MESSAGES = [{"role": "user", "content": "Hello"}]


async def ask(sdk: AsyncOpenAI, headers: dict[str, str] | None = None, **fields):
    return await sdk.chat.completions.create(
        model="gpt-4o-mini", messages=MESSAGES, extra_headers=headers, **fields
    )


async def stream(
    sdk: AsyncOpenAI, headers: dict[str, str] | None = None, **fields
) -> list[ChatCompletionChunk]:
    async with await ask(sdk, headers, stream=True, **fields) as chunks:
        return [chunk async for chunk in chunks]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_each_word_is_one_token() -> None:
    """What a chunk carries is one token of o200k_base, alone and in any row."""
    encoding = o200k()
    assert encoding is not None
    assert all(len(encoding.encode_ordinary(word)) == 1 for word in WORDS)
    assert len(encoding.encode_ordinary("".join(WORDS * 3))) == 3 * len(WORDS)


def test_prompts_are_counted_by_the_published_rule() -> None:
    """3 to prime, 3 for a message, 1 for a name, and the tokens of every value and of the tools."""
    assert count_chat([{"role": "user", "content": "Hello"}]) == 3 + 3 + 1 + 1
    named = {"role": "user", "content": "Hello", "name": "ann"}
    assert count_chat([named]) == 3 + 3 + 1 + 1 + 1 + count_text("ann")
    parts = [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert count_chat([{"role": "user", "content": parts}]) == 3 + 3 + 1 + 1 + 85
    tools = [{"type": "function", "function": {"name": "f"}}]
    counted = count_text('[{"type":"function","function":{"name":"f"}}]')
    assert count_chat(MESSAGES, tools) == 8 + counted
    assert count_text(" " * 1_000_000) > 0


async def test_json_answer(provider: FakeProvider, sdk: AsyncOpenAI) -> None:
    """The usage is that of the journal, and the text has as many tokens as it says."""
    answer = await ask(sdk, {"x-fake-completion-tokens": "300", "x-fake-cached-tokens": "4"})
    assert (answer.model, answer.service_tier) == ("gpt-4o-mini", "default")
    assert answer.choices[0].finish_reason == "stop"
    assert count_text(answer.choices[0].message.content) == 300
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (8, 300, 308)
    assert usage.prompt_tokens_details.cached_tokens == 4
    entry = provider.journal[0]
    assert (entry.prompt_tokens, entry.completion_tokens, entry.cached_tokens) == (8, 300, 4)
    assert (entry.model, entry.stream, entry.status) == ("gpt-4o-mini", False, 200)
    assert (entry.usage_sent, entry.finished, entry.aborted) == (True, True, False)


@pytest.mark.parametrize("tokens", [0, 1, 20, 700])
async def test_each_chunk_is_one_token(
    provider: FakeProvider, sdk: AsyncOpenAI, tokens: int
) -> None:
    """Kept whole or made on the way, a stream has one chunk a token, and a token a chunk."""
    chunks = await stream(sdk, {"x-fake-completion-tokens": str(tokens)})
    pieces = [chunk.choices[0].delta.content for chunk in chunks[1:-1]]
    assert len(pieces) == tokens
    assert count_text("".join(pieces)) == tokens
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert provider.totals().completion_tokens == tokens
    assert provider.journal[0].finished
    assert not provider.journal[0].usage_sent


async def test_the_usage_chunk_comes_when_it_is_asked_for(provider: FakeProvider) -> None:
    """Asked: a last chunk without choices, and a null usage on all others. Else: no such field."""
    async with Wire(provider.base_url) as wire:
        asked = await wire.ask(chat(stream=True, stream_options={"include_usage": True}))
        unasked = await wire.ask(chat(stream=True, stream_options={"include_usage": False}))
    assert asked.events[-1] == unasked.events[-1] == "[DONE]"
    *others, last = asked.chunks
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 8 + 20
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in others)
    assert all("usage" not in chunk for chunk in unasked.chunks)
    assert [entry.usage_sent for entry in provider.journal] == [True, False]


async def test_ids_are_new_with_every_call(provider: FakeProvider, sdk: AsyncOpenAI) -> None:
    """Equal requests get different ids, in the body and in the header."""
    first, second = [await ask(sdk) for _ in range(2)]
    assert first.id != second.id
    assert first._request_id != second._request_id
    assert first.choices == second.choices


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_output_ceilings_hold(
    provider: FakeProvider, sdk: AsyncOpenAI, field: str, streamed: bool
) -> None:
    """A ceiling below the script cuts text and bill, and says so; one above changes nothing."""
    for ceiling, tokens, reason in [(7, 7, "length"), (0, 0, "length"), (20, 20, "stop")]:
        provider.reset()
        fields = {field: ceiling}
        if streamed:
            chunks = await stream(sdk, **fields)
            text, said = text_of(chunks), chunks[-1].choices[0].finish_reason
        else:
            choice = (await ask(sdk, **fields)).choices[0]
            text, said = choice.message.content, choice.finish_reason
        assert (count_text(text), said) == (tokens, reason)
        assert provider.totals().completion_tokens == tokens


async def test_every_choice_is_billed(provider: FakeProvider, sdk: AsyncOpenAI) -> None:
    """With n=3 the completion costs three times as much, streamed or not."""
    answer = await ask(sdk, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 60
    chunks = await stream(sdk, n=3)
    said = ["", "", ""]
    for chunk in chunks:
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == [answer.choices[0].message.content] * 3
    assert [entry.completion_tokens for entry in provider.journal] == [60, 60]


@pytest.mark.parametrize("tokens", [1, 2, 3, 20])
async def test_tool_calls(provider: FakeProvider, sdk: AsyncOpenAI, tokens: int) -> None:
    """Whole or in deltas, the arguments are JSON, and the finish reason says tool_calls."""
    headers = {"x-fake-tool-call": "1", "x-fake-completion-tokens": str(tokens)}
    choice = (await ask(sdk, headers)).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    function = choice.message.tool_calls[0].function
    assert function.name == "get_weather"
    assert "city" in json.loads(function.arguments)
    chunks = await stream(sdk, headers)
    deltas = [chunk.choices[0].delta.tool_calls[0] for chunk in chunks[:-1]]
    assert (deltas[0].function.name, deltas[0].type) == ("get_weather", "function")
    assert "".join(delta.function.arguments for delta in deltas) == function.arguments
    assert len(deltas) == 1 + tokens
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_reasoning_is_billed_and_not_shown(provider: FakeProvider, sdk: AsyncOpenAI) -> None:
    """Hidden tokens are part of the completion; a low ceiling leaves nothing but them."""
    headers = {"x-fake-reasoning-tokens": "15"}
    answer = await ask(sdk, headers)
    assert count_text(answer.choices[0].message.content) == 5
    assert answer.usage.completion_tokens == 20
    assert answer.usage.completion_tokens_details.reasoning_tokens == 15
    assert count_text(text_of(await stream(sdk, headers, max_tokens=10))) == 0
    assert [entry.completion_tokens for entry in provider.journal] == [20, 10]
    assert [entry.reasoning_tokens for entry in provider.journal] == [15, 10]


@pytest.mark.parametrize("end", ["lf", "crlf", "cr"])
async def test_content_and_line_ends_can_be_given(provider: FakeProvider, end: str) -> None:
    """The given text comes whole, over as many chunks as there are tokens, with those line ends."""
    content = 'É "usage": {"total_tokens": 9}'
    headers = {"x-fake-content": content, "x-fake-line-end": end, "x-fake-completion-tokens": "50"}
    async with Wire(provider.base_url) as wire:
        reply = await wire.ask(chat(headers, stream=True))
        whole = await wire.ask(chat(headers))
    ends = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}[end]
    assert reply.body.endswith(f"data: [DONE]{ends}{ends}".encode())
    reply.body = reply.body.replace(ends.encode(), b"\n")
    assert len(reply.chunks) == 1 + 50 + 1
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in reply.chunks]
    assert "".join(pieces) == whole.json["choices"][0]["message"]["content"] == content
    assert provider.totals().completion_tokens == 100


async def test_embeddings(provider: FakeProvider, sdk: AsyncOpenAI) -> None:
    """One vector a text, as base64 or numbers; the prompt is billed, a completion there is none."""
    model = "text-embedding-3-small"
    answer = await sdk.embeddings.create(model=model, input=["Hello", "Hello"], dimensions=8)
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (2, 2)
    numbers = await sdk.embeddings.create(model=model, input=[1, 2, 3], encoding_format="float")
    assert [len(item.embedding) for item in numbers.data] == [1536]
    assert (provider.totals().prompt_tokens, provider.totals().completion_tokens) == (5, 0)


async def test_free_routes(provider: FakeProvider, sdk: AsyncOpenAI) -> None:
    """Moderations and the list of models work, and are no model calls."""
    assert not (await sdk.moderations.create(input="Hello")).results[0].flagged
    assert "gpt-4o" in [model.id async for model in sdk.models.list()]
    assert (len(provider.journal), provider.totals().calls) == (2, 0)
