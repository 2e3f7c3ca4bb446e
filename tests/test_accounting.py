"""What a call is charged, by what is known of its answer."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs

from gateway.accounting import MISSING_USAGE_WARNING, Charge, account, cost_of, count_input
from gateway.call import Call, read_call
from gateway.core.configuration import DataPlane, UpstreamSettings
from gateway.core.dialects.table import WIRE_FORMATS
from gateway.core.disconnect import Disconnect
from gateway.core.errors import UpstreamError
from gateway.core.estimate import InputEstimate, LearnedOutput
from gateway.core.identity import Dialect, identify
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.piece_rates import PieceRates
from gateway.core.prices import ModelPrice
from gateway.core.usage import NO_USAGE, Usage, UsageSource
from gateway.planner import Plan, Planner
from gateway.ports import Request, TaskFacts
from gateway.relay import Relay
from tests.e2e.in_process import rules
from tests.test_relay import ANSWER, JSON, SSE, TEXT_EVENT, USAGE_EVENT, Line

WORDS = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
FACTS = TaskFacts(Complexity.MEDIUM, ImportanceTier.MEDIUM)
NO_USAGE_EVENT = b'data: {"choices":[{"delta":{"content":" bye"}}]}\n\n'
ERROR = b'{"error":{"message":"no"}}'


class Words:
    """ports.Tokenizer that counts words."""

    async def count(self, model: str, texts: Sequence[str]) -> int:
        assert model == "m"
        return sum(len(text.split()) for text in texts)

    async def count_request(self, model: str, dialect: Dialect, body: bytes) -> int | None:
        text, overhead = WIRE_FORMATS[dialect].countable_text(body)
        return overhead + await self.count(model, [text])


class Speechless(Words):
    """ports.Tokenizer that cannot count requests."""

    async def count_request(self, model: str, dialect: Dialect, body: bytes) -> int | None:
        return None


def call_of(**fields: object) -> tuple[Call, Plan]:
    body = json.dumps(WORDS | fields).encode()
    request = Request(b"POST", b"/v1/chat/completions", [(b"X-Task-Id", b"T")], body, 0.0)
    call = read_call("c1", request, *identify(request.target, request.headers))
    plane = DataPlane("unix:///s", upstreams={"openai": UpstreamSettings("https://a.example")})
    planner = Planner(plane, rules(), LearnedOutput())
    assert call.asked is not None
    return call, planner.plan(call, call.asked, FACTS, InputEstimate(1, 20, 30))


async def charge(relay: Relay, **fields: object) -> Charge:
    call, plan = call_of(**fields)
    return await account(call, plan, None, relay, Words())


def answered(
    headers: list[tuple[bytes, bytes]], *pieces: bytes, status: int = 200, **upstream: Any
) -> Line:
    """Return a line whose answer has begun."""
    line = Line(stream=headers is SSE, **upstream)
    line.follow()
    line.relay.on_head(status, headers, None)
    for piece in pieces:
        line.relay.on_body(piece)
    return line


def estimated(input_total: int, output_total: int, *, whole: bool = False) -> Charge:
    usage = Usage(input_total=input_total, output_total=output_total)
    return Charge(usage, UsageSource.ESTIMATED, lacked_usage=whole)


INPUT = 3 + 3 + 3 + 1  # three words, a role, what a message and the answer's start cost


async def test_what_the_provider_says_counts() -> None:
    """In JSON, in a stream, and in a stream that was cut after it said so."""
    said = Charge(Usage(input_total=3, output_total=2), UsageSource.PROVIDER)
    line = answered(JSON, ANSWER)
    line.relay.on_end()
    assert await charge(line.relay) == said
    line = answered(SSE, TEXT_EVENT, USAGE_EVENT)
    line.relay.on_broken(UpstreamError("upstream_broken", "", sent=True))
    assert await charge(line.relay, stream=True) == said


async def test_EC7_a_whole_answer_without_usage_is_counted() -> None:
    """And it is told that it lacked it."""
    line = answered(SSE, TEXT_EVENT, NO_USAGE_EVENT)
    line.relay.on_end()
    assert await charge(line.relay, stream=True) == estimated(INPUT, 2, whole=True)
    line = answered(JSON, b'{"choices":[{"message":{"content":"one two"}}]}')
    line.relay.on_end()
    assert await charge(line.relay) == estimated(INPUT, 2, whole=True)
    assert "estimated tokens" in MISSING_USAGE_WARNING


async def test_a_cut_stream_is_charged_what_was_seen() -> None:
    """Whoever cut it; that is not a lack of usage."""
    line = answered(SSE, TEXT_EVENT)
    line.relay.client_left()
    assert await charge(line.relay, stream=True) == estimated(INPUT, 1)
    line = answered(SSE, TEXT_EVENT)
    line.relay.on_broken(UpstreamError("upstream_broken", "", sent=True))
    assert await charge(line.relay, stream=True) == estimated(INPUT, 1)
    line = Line(stream=True)
    line.follow()
    line.relay.client_left()
    assert await charge(line.relay, stream=True) == estimated(INPUT, 0)


async def test_a_json_answer_that_never_came_whole_is_charged_its_hold() -> None:
    """It may be billed in full."""
    hold = estimated(20, 100)
    line = answered(JSON, b'{"cho')
    line.relay.on_broken(UpstreamError("upstream_broken", "", sent=True))
    assert await charge(line.relay, max_tokens=100) == hold
    line = Line()
    line.follow()
    line.relay.on_broken(UpstreamError("upstream_timeout", "", sent=True))
    assert await charge(line.relay, max_tokens=100) == hold
    line = Line(stream=True)
    line.follow()
    line.relay.on_broken(UpstreamError("upstream_timeout", "", sent=True))
    assert await charge(line.relay, max_tokens=100, stream=True) == hold
    line = Line(max_draining=0)
    line.follow()
    line.relay.client_left()
    assert line.relay.done.done()
    assert await charge(line.relay, max_tokens=100) == hold


async def test_a_stream_that_is_read_on_without_its_client() -> None:
    """Its usage is believed; without one it is charged what was seen, wherever that ended."""
    line = answered(SSE, TEXT_EVENT, disconnect=Disconnect.DRAIN)
    line.relay.client_left()
    line.relay.on_body(USAGE_EVENT)
    line.relay.on_end()
    said = Charge(Usage(input_total=3, output_total=2), UsageSource.PROVIDER)
    assert await charge(line.relay, stream=True) == said
    line = answered(SSE, TEXT_EVENT, disconnect=Disconnect.DRAIN)
    line.relay.client_left()
    line.relay.on_body(NO_USAGE_EVENT)
    line.relay.on_broken(UpstreamError("upstream_broken", "", sent=True))
    assert await charge(line.relay, stream=True) == estimated(INPUT, 2)


@pytest.mark.parametrize("status", [400, 429, 500, 529])
async def test_an_error_costs_nothing(status: int) -> None:
    """Nor does one in a 200, nor a request that never left."""
    nothing = Charge(NO_USAGE, UsageSource.NONE)
    line = answered(JSON, ERROR, status=status)
    line.relay.on_end()
    assert await charge(line.relay) == nothing
    line = answered(JSON, ERROR)
    line.relay.on_end()
    assert await charge(line.relay) == nothing
    line = Line()
    line.follow()
    line.relay.on_broken(UpstreamError("upstream_unreachable", "", sent=False))
    assert await charge(line.relay) == nothing


async def test_an_error_after_text_is_charged_for_the_text() -> None:
    """It was generated."""
    line = answered(SSE, TEXT_EVENT, b"data: " + ERROR + b"\n\n")
    line.relay.on_end()
    assert await charge(line.relay, stream=True) == estimated(INPUT, 1, whole=True)


async def test_usage_that_cannot_be_true_is_charged_its_hold() -> None:
    """And said so."""
    line = answered(JSON, b'{"usage":{"prompt_tokens":-3,"completion_tokens":2}}')
    line.relay.on_end()
    hold = Usage(input_total=20, output_total=100)
    assert await charge(line.relay, max_tokens=100) == Charge(
        hold, UsageSource.ESTIMATED, is_doubtful=True
    )


async def test_input_that_was_reported_is_not_counted_again() -> None:
    """Of a cut stream: its text came after the last report."""
    begun = b'data: {"choices":[],"usage":{"prompt_tokens":77,"completion_tokens":0}}\n\n'
    line = answered(SSE, begun, NO_USAGE_EVENT)
    line.relay.client_left()
    assert await charge(line.relay, stream=True) == estimated(77, 1)


async def test_an_answer_in_the_background_is_charged_its_hold() -> None:
    """Nobody sees its usage here."""
    call, plan = call_of(max_tokens=100)
    assert call.asked is not None
    call = structs.replace(call, asked=structs.replace(call.asked, is_background=True))
    line = answered(JSON, b'{"status":"queued"}')
    line.relay.on_end()
    assert await account(call, plan, None, line.relay, Words()) == estimated(20, 100)


def test_the_providers_own_cost_counts_before_the_price_list() -> None:
    """Without either there is none."""
    price = ModelPrice(input=1_000_000, output=0, cached_read=0, cache_write=0)
    assert cost_of(Usage(5, provider_nano_usd=7), price) == 7
    assert cost_of(Usage(5), price) == 5
    assert cost_of(Usage(5), None) is None


def test_tokens_of_a_model_that_is_priced_by_the_piece_have_no_cost() -> None:
    """GW-5: unknown is not free."""
    price = ModelPrice(0, 0, 0, 0, pieces=PieceRates(second=10**11))
    assert cost_of(Usage(5, seconds=2), price) == 200_000
    assert cost_of(Usage(5), price) is None


async def test_what_is_not_metered_has_no_input() -> None:
    """There is nothing to count it by."""
    call, _ = call_of()
    assert await count_input(structs.replace(call, asked=None, wire=None), Words()) is None


async def test_input_is_counted_with_what_messages_cost() -> None:
    """Beside their text."""
    call, _ = call_of()
    assert await count_input(call, Words()) == INPUT


async def test_a_body_too_long_to_count_is_not_counted() -> None:
    """Counting it would take seconds."""
    call, _ = call_of()
    long = structs.replace(call.request, body=b" " * 8_000_001)
    assert await count_input(structs.replace(call, request=long), Words()) is None


async def test_what_cannot_be_counted_is_charged_as_it_was_estimated() -> None:
    """That is the best that is known."""
    line = answered(SSE, TEXT_EVENT, NO_USAGE_EVENT)
    line.relay.on_end()
    call, plan = call_of(stream=True)
    charged = await account(call, plan, None, line.relay, Speechless())
    assert charged == estimated(20, 2, whole=True)


async def test_a_count_is_scaled_to_the_models_tokenizer_and_images_come_on_top() -> None:
    """A newer Claude makes 1.8 tokens of one of o200k; an image is what its formula says."""

    class Counter:
        async def count(self, model: str, texts: Sequence[str]) -> int:
            return 10

        async def count_request(self, model: str, dialect: Dialect, body: bytes) -> int | None:
            return 100

    line = answered(SSE, TEXT_EVENT)
    line.relay.client_left()
    call, plan = call_of(stream=True, model="claude-opus-5")
    plan = structs.replace(plan, estimate=InputEstimate(1, 20, 30, text=10, images=7))
    charged = await account(call, plan, None, line.relay, Counter())
    assert charged == estimated(187, 18)
