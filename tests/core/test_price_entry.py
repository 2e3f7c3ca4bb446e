"""What an entry of the price list says of pieces, and of tokens that are no text."""

from typing import Any

import pytest

from gateway.core.piece_rates import PieceRates
from gateway.core.price_entry import price_from_entry
from gateway.core.prices import ModelPrice

WHISPER = {
    "mode": "audio_transcription",
    "input_cost_per_second": 0.0001,
    "output_cost_per_second": 0.0001,
}
REALTIME = {
    "mode": "realtime",
    "input_cost_per_token": 4e-06,
    "output_cost_per_token": 1.6e-05,
    "cache_read_input_token_cost": 4e-07,
    "input_cost_per_audio_token": 3.2e-05,
    "cache_read_input_audio_token_cost": 4e-07,
    "output_cost_per_audio_token": 6.4e-05,
    "input_cost_per_image_token": 5e-06,
    "cache_read_input_image_token_cost": 5e-07,
}


def priced(entry: dict[str, Any], sizes: dict[str, Any] | None = None) -> ModelPrice:
    price = price_from_entry(entry, sizes)
    assert price is not None
    return price


def pieces(entry: dict[str, Any], sizes: dict[str, Any] | None = None) -> PieceRates:
    rates = priced(entry, sizes).pieces
    assert rates is not None
    return rates


def test_a_recording_is_priced_by_the_second() -> None:
    """Once, though the list states the same price for both sides (whisper-1, $0.006 a minute)."""
    assert priced(WHISPER) == ModelPrice(0, 0, 0, 0, pieces=PieceRates(second=10**11))
    one_side = {"mode": "audio_transcription", "input_cost_per_second": 0.0001}
    assert pieces({**one_side, "output_cost_per_second": 0.0}).second == 10**11


def test_a_chat_model_s_seconds_are_not_of_recordings() -> None:
    """A machine that is rented by the second: nothing that a call reports."""
    assert price_from_entry({**WHISPER, "mode": "chat"}) is None


def test_speech_is_priced_by_the_character() -> None:
    """Or by the second that it lasts: 15 characters."""
    tts = {"mode": "audio_speech", "input_cost_per_character": 1.5e-05}
    assert priced(tts) == ModelPrice(0, 0, 0, 0, pieces=PieceRates(character=15 * 10**9))
    by_second = {"mode": "audio_speech", "output_cost_per_second": 0.00015}
    assert pieces(by_second).character == 10**10


@pytest.mark.parametrize(
    ("stated", "image"),
    [
        ({"output_cost_per_image": 0.04}, 0.04),
        ({"input_cost_per_image": 0.05}, 0.05),
        ({"input_cost_per_image": 0.001, "output_cost_per_image": 0.04}, 0.04),
    ],
)
def test_an_image_that_is_made_has_a_price(stated: dict[str, float], image: float) -> None:
    """The output's where both are stated: the input's is that of images that are shown."""
    for mode in ("image_generation", "image_edit"):
        assert pieces({"mode": mode, **stated}) == PieceRates(image=round(image * 10**15))


def test_an_image_may_be_priced_by_the_pixel() -> None:
    rates = pieces({"mode": "image_generation", "input_cost_per_pixel": 5e-08})
    assert rates == PieceRates(pixel=50_000_000)


def test_sizes_have_prices_of_their_own() -> None:
    """An image of another size costs what the list says, else as the dearest of them."""
    sizes = {
        "standard/1024x1024": {"input_cost_per_pixel": 4e-08},
        "hd/1024x1792": {"output_cost_per_image": 0.12},
        "standard/512x512": {},
    }
    by_size = (("standard/1024x1024", 4 * 10**7 * 1024 * 1024), ("hd/1024x1792", 12 * 10**13))
    assert pieces({}, sizes) == PieceRates(image=12 * 10**13, sizes=by_size)
    base = {"mode": "image_generation", "output_cost_per_image": 0.05}
    assert pieces(base, sizes) == PieceRates(image=5 * 10**13, sizes=by_size)


def test_a_size_that_costs_nothing_is_no_price() -> None:
    """GW-5: unknown is not free."""
    assert price_from_entry({}, {"standard/1024x1024": {"input_cost_per_pixel": 0.0}}) is None


def test_tokens_that_are_no_text_have_rates_of_their_own() -> None:
    assert priced(REALTIME).pieces == PieceRates(
        audio_input=32 * 10**9,
        audio_output=64 * 10**9,
        image_input=5 * 10**9,
        image_cached=5 * 10**8,
    )


def test_a_rate_that_is_the_text_s_follows_it() -> None:
    """Into dearer tiers: of xAI's long calls an image token costs what any costs."""
    chat = {
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 6e-06,
        "output_cost_per_reasoning_token": 6e-06,
        "input_cost_per_image_token": 2e-06,
    }
    assert priced(chat).pieces is None
    assert priced(chat).reasoning is None


def test_image_tokens_are_the_output_of_image_models() -> None:
    """gpt-image-1 states no other output price; a chat model without one has no price."""
    entry = {"input_cost_per_token": 5e-06, "output_cost_per_image_token": 4e-05}
    assert priced({**entry, "mode": "image_generation"}).output == 4 * 10**10
    assert price_from_entry({**entry, "mode": "chat"}) is None


def test_a_model_with_a_price_of_input_and_of_images_has_both() -> None:
    entry = {"input_cost_per_token": 1e-06, "output_cost_per_image": 0.04}
    price = priced({**entry, "mode": "image_generation"})
    assert (price.input, price.output, price.pieces) == (10**9, 0, PieceRates(image=4 * 10**13))


def test_long_calls_and_service_tiers_keep_the_rates_of_pieces() -> None:
    entry = {
        **REALTIME,
        "input_cost_per_token_above_200k_tokens": 8e-06,
        "input_cost_per_token_priority": 8e-06,
        "input_cost_per_audio_token_priority": 6.4e-05,
    }
    price = priced(entry)
    assert price.at(200_001).pieces == price.pieces
    of_priority = price.on("priority").pieces
    assert of_priority is not None
    assert of_priority.audio_input == 64 * 10**9


def test_a_tier_with_a_price_of_its_output_prices_reasoning_as_output() -> None:
    """Else reasoning would cost a priority call what it costs a standard one."""
    entry = {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
        "output_cost_per_reasoning_token": 3e-06,
        "input_cost_per_token_priority": 2e-06,
        "output_cost_per_token_priority": 4e-06,
    }
    assert priced(entry).reasoning == 3 * 10**9
    assert priced(entry).on("priority").reasoning is None
