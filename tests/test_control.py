"""What supervisor and worker tell each other arrives as it was sent."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from gateway.control import Message, Ready, Start, Telemetry, UseRules, UsesRules, frame, receive
from gateway.core.configuration import DataPlane, UpstreamSettings
from gateway.core.phases import Complexity
from gateway.core.policy import Effect, Match, Mode, ReserveKind, StopLossPolicy
from gateway.core.prices import ModelPrice, PriceTable
from gateway.rule_files.price_list import read_price_list
from tests.e2e.in_process import rules

POLICY = StopLossPolicy(
    "p",
    Mode.ENFORCE,
    Match(complexity=frozenset({Complexity.LARGE})),
    Effect.FLAG,
    None,
    ReserveKind.WORST_CASE,
)
PRICES = PriceTable({"m": ModelPrice(1, 2, 3, 4, 5)})
RULES = rules(POLICY, prices=PRICES, budgets_source="file")
PLANE = DataPlane(
    "unix:///s",
    upstreams={"openai": UpstreamSettings("https://a.example", "openai", forward_tags=True)},
    enforcement_disabled=True,
)
MESSAGES: list[Message] = [
    Start(PLANE, RULES),
    UsesRules(),
    UseRules(replace(RULES, budgets_source="defaults")),
    Ready(42),
    Telemetry([("tollgate_calls_total", ("allow", "", "é"), 3)], 7, False),
]


async def arrived(message: Message) -> Message:
    reader = asyncio.StreamReader()
    reader.feed_data(frame(message))
    return await receive(reader)


async def test_the_price_list_is_sent_whole() -> None:
    """As the JSON that it is: it is understood where it is asked, on either side."""
    overrides = {"mine": ModelPrice(1, 2, 1, 1), "gpt-4o": ModelPrice(5, 6, 5, 5)}
    listed = read_price_list()[0].under(overrides)
    in_force = replace(RULES, prices=PriceTable(listed, overrides))
    for message in (UseRules(in_force), Start(PLANE, in_force)):
        got = await arrived(message)
        assert isinstance(got, Start | UseRules)
        assert got.rules.prices.overrides == overrides
        for model in ("gpt-4o", "gpt-4o-mini", "mine", "whisper-1", "azure/dall-e-3"):
            assert got.rules.prices.models[model] == listed[model]
        assert message.rules is in_force
        assert not message.price_list


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
async def test_a_message_arrives_whole(message: Message) -> None:
    """Enums, decimals, sets and all."""
    reader = asyncio.StreamReader()
    reader.feed_data(frame(message))
    assert await receive(reader) == message


async def test_messages_arrive_in_order_however_they_are_cut() -> None:
    """The length in front says where one ends."""
    reader = asyncio.StreamReader()
    data = b"".join(map(frame, MESSAGES))
    receiving = asyncio.ensure_future(_receive(reader, len(MESSAGES)))
    for place in range(0, len(data), 1_000):
        reader.feed_data(data[place : place + 1_000])
        await asyncio.sleep(0)
    assert await receiving == MESSAGES


async def _receive(reader: asyncio.StreamReader, count: int) -> list[Message]:
    return [await receive(reader) for _ in range(count)]


async def test_the_end_is_an_error() -> None:
    """Also in the middle of a message."""
    reader = asyncio.StreamReader()
    reader.feed_data(frame(Ready(1))[:-1])
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await receive(reader)


def test_thresholds_stay_exact() -> None:
    """They are decimals on both sides."""
    assert RULES.budgets.stop_loss.cumulative_token_threshold == Decimal("1.2")
