"""What pieces cost, and tokens that are no text: in place of text's price, never beside it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.piece_rates import PieceRates
from gateway.core.prices import ModelPrice
from gateway.core.usage import Modalities, Usage

BY_PIECE = PieceRates(second=10**11, character=15 * 10**9, image=4 * 10**13)
NO_TOKENS = ModelPrice(0, 0, 0, 0, pieces=BY_PIECE)
BOTH = ModelPrice(10**9, 2 * 10**9, 10**9, 10**9, pieces=BY_PIECE)
OF_KINDS = PieceRates(
    audio_input=10 * 10**9,
    audio_cached=5 * 10**9,
    audio_output=20 * 10**9,
    image_input=3 * 10**9,
    image_cached=2 * 10**9,
    image_output=30 * 10**9,
)
KINDS = ModelPrice(10**9, 4 * 10**9, 10**8, 10**9, pieces=OF_KINDS)


def test_pieces_cost_what_they_cost() -> None:
    """A minute of whisper-1 is $0.006, a thousand characters of tts-1 $0.015."""
    assert NO_TOKENS.cost_nano_usd(Usage(seconds=60)) == 6_000_000
    assert NO_TOKENS.cost_nano_usd(Usage(characters=1_000)) == 15_000_000
    assert NO_TOKENS.cost_nano_usd(Usage(images=2)) == 80_000_000
    assert ModelPrice(0, 0, 0, 0, pieces=OF_KINDS).cost_nano_usd(Usage(5, 0, 0, 5)) == 0


@pytest.mark.parametrize(
    ("usage", "nano_usd"),
    [
        (Usage(10, seconds=60), 10_000),
        (Usage(output_total=10, seconds=60), 20_000 + 6_000_000),
        (Usage(10, output_total=10, characters=100, images=1), 30_000),
        (Usage(10, characters=100, images=1), 10_000 + 1_500_000 + 40_000_000),
    ],
)
def test_a_piece_is_not_charged_where_a_token_price_answers(usage: Usage, nano_usd: int) -> None:
    """Seconds are input, characters and images output."""
    assert BOTH.cost_nano_usd(usage) == nano_usd


def test_a_rate_that_is_not_stated_charges_nothing_beside_tokens() -> None:
    price = replace(BOTH, pieces=PieceRates(image=4 * 10**13))
    assert price.cost_nano_usd(Usage(seconds=60, characters=100)) == 0


def test_an_image_costs_what_its_size_costs() -> None:
    """Of an unlisted size, and of one that was not stated: the model's own price."""
    sizes = (("hd/1024x1792", 12 * 10**13), ("standard/1024x1024", 4 * 10**13))
    price = ModelPrice(0, 0, 0, 0, pieces=PieceRates(image=13 * 10**13, sizes=sizes))
    for terms, nano_usd in (
        ("hd/1024x1792", 120_000_000),
        ("standard/1024x1024", 40_000_000),
        ("hd/512x512", 130_000_000),
        ("", 130_000_000),
    ):
        assert price.cost_nano_usd(Usage(images=1, terms=terms)) == nano_usd


def test_an_image_may_cost_by_its_pixels() -> None:
    price = ModelPrice(0, 0, 0, 0, pieces=PieceRates(pixel=50_000_000))
    assert price.cost_nano_usd(Usage(images=2, terms="standard/100x200")) == 2 * 20_000 * 50
    assert price.cost_nano_usd(Usage(images=1)) == 1024 * 1024 * 50


def test_tokens_that_are_no_text_cost_their_own_rates() -> None:
    """Each once: cached ones at their kind's rate for cached ones."""
    kinds = Modalities(
        audio_input=30,
        audio_cached=10,
        audio_output=5,
        image_input=20,
        image_cached=5,
        image_output=3,
    )
    usage = Usage(100, 15, 0, 10, modalities=kinds)
    text_in, text_out = 100 - 15 - 20 - 15, 10 - 5 - 3
    nano_usd = (
        text_in * 1_000 + 20 * 10_000 + 15 * 3_000 + 10 * 5_000 + 5 * 2_000 + text_out * 4_000
    ) + (5 * 20_000 + 3 * 30_000)
    assert KINDS.cost_nano_usd(usage) == nano_usd


def test_tokens_whose_rate_is_not_stated_cost_what_text_costs() -> None:
    usage = Usage(100, 0, 0, 10, modalities=Modalities(audio_input=50, image_output=3))
    of_audio = replace(KINDS, pieces=PieceRates(audio_output=10**9))
    text = replace(KINDS, pieces=None)
    assert of_audio.cost_nano_usd(usage) == text.cost_nano_usd(usage)


COUNT = st.integers(0, 1_000)


@given(st.builds(Modalities, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT), COUNT, COUNT, COUNT)
def test_no_token_is_billed_twice_whatever_the_parts_say(
    kinds: Modalities, plain: int, read: int, output: int
) -> None:
    """Parts that overlap, or go beyond their whole, cost at most the dearest rate of each token."""
    usage = Usage(plain + read, read, 0, output, modalities=kinds)
    cost = KINDS.cost_nano_usd(usage)
    assert cost <= plain * 10_000 + read * 5_000 + output * 30_000
    assert cost >= plain * 1_000 + read * 100 + output * 4_000


# What is held -------------------------------------------------------------------------------------


def test_pieces_that_are_asked_for_are_held() -> None:
    """Not beside tokens that are held for the same thing."""
    asked = Usage(seconds=60, images=1)
    assert NO_TOKENS.pieces_nano_usd(asked, 100, 100) == 46_000_000
    assert BOTH.pieces_nano_usd(asked, 100, 0) == 40_000_000
    assert BOTH.pieces_nano_usd(asked, 100, 100) == 0
    assert replace(BOTH, pieces=None).pieces_nano_usd(asked, 0, 0) == 0


def test_what_is_no_text_is_held_at_the_dearest_rate() -> None:
    assert KINDS.input_nano_usd(10) == 10_000
    assert KINDS.input_nano_usd(10, is_text=False) == 100_000
    assert replace(KINDS, pieces=None).input_nano_usd(10, is_text=False) == 10_000
    assert KINDS.unit_nano_usd == 30_000


# What has no price --------------------------------------------------------------------------------


def test_tokens_are_not_free_where_only_pieces_have_a_price() -> None:
    """GW-5: a price of images says nothing of a chat with the same model."""
    assert not NO_TOKENS.answers(Usage(100))
    assert NO_TOKENS.answers(Usage(100, seconds=1))
    assert NO_TOKENS.answers(Usage())
    assert BOTH.answers(Usage(100))
    assert ModelPrice(0, 0, 0, 0).answers(Usage(100))
    assert KINDS.answers(Usage(100))
    assert ModelPrice(0, 0, 0, 0, pieces=OF_KINDS).answers(Usage(100))
