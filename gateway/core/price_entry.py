"""What an entry of the litellm package's price list says, as a `ModelPrice`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from gateway.core.piece_rates import PieceRates
from gateway.core.prices import ModelPrice, rate_from_usd_per_token

_NO_OUTPUT = ("embedding", "rerank")
_THRESHOLDS = (100, 128, 200, 272, 512)  # thousands of input tokens, as the list's keys name them
_SERVICES = ("flex", "priority")
_MULTIPLIERS = ("fast", "us")
_IMAGES = ("image_generation", "image_edit")
_RECORDINGS = ("audio_transcription", "realtime")
_PER_PIXEL = ("output_cost_per_pixel", "input_cost_per_pixel")
_CHARACTERS_PER_SECOND = 15  # of speech at the pace that such models have
_NO_PIECES = PieceRates()


def price_from_entry(
    entry: Mapping[str, Any], sizes: Mapping[str, Mapping[str, Any]] | None = None
) -> ModelPrice | None:
    """Return the price that an entry of the litellm list states, or None if it states none.

    A missing cache rate falls back to the input rate: no discount that nobody promised. A missing
    output rate is that of image tokens where images are made; else it is none at all, except where
    there is no output. `sizes` are the entries of the same model's images by quality and size.
    """
    steps = _steps(entry)
    if steps:
        entry = {**entry, **steps[0]}
    pieces = _pieces(entry, sizes or {})
    plain, output = _rate(entry, "input_cost_per_token"), _output(entry)
    if not plain or output is None:
        if pieces is None or not pieces.has_pieces:
            return None
        output = output or 0
    base = ModelPrice(
        input=plain,
        output=output,
        pieces=pieces,
        cached_read=_rate(entry, "cache_read_input_token_cost") or plain,
        cache_write=_rate(entry, "cache_creation_input_token_cost") or plain,
        max_output_tokens=_ceiling(entry.get("max_output_tokens")),
        max_input_tokens=_ceiling(entry.get("max_input_tokens")),
        cache_write_1h=_rate(entry, "cache_creation_input_token_cost_above_1hr") or None,
        reasoning=_unlike(entry, "output_cost_per_reasoning_token", output),
        search_nano_usd=_search(entry.get("search_context_cost_per_query")),
    )
    price = replace(base, tiers=tuple(_tiers(entry, base, steps[1:])))
    services, per_mille = tuple(_services(entry, price)), tuple(_multipliers(entry))
    return (
        replace(price, services=services, per_mille=per_mille) if services or per_mille else price
    )


def _output(entry: Mapping[str, Any]) -> int | None:
    """Return the rate of an output token, None if there should be one and is not."""
    mode = entry.get("mode")
    if "output_cost_per_token" in entry or mode in _NO_OUTPUT:
        return _rate(entry, "output_cost_per_token")
    return _rate(entry, "output_cost_per_image_token") or None if mode in _IMAGES else None


def _pieces(entry: Mapping[str, Any], sizes: Mapping[str, Mapping[str, Any]]) -> PieceRates | None:
    """Return the rates of what is no text, None if there are none.

    The mode tells what is made of recordings, of characters and of images. A token rate that is
    the text's is none of its own: it follows the text's to dearer tiers.
    """
    mode = entry.get("mode")
    second = character = image = pixel = None
    by_size: tuple[tuple[str, int], ...] = ()
    if mode in _RECORDINGS:
        second = _either(entry, "output_cost_per_second", "input_cost_per_second")
    elif mode == "audio_speech":
        spoken = (_rate(entry, "output_cost_per_second") // _CHARACTERS_PER_SECOND) or None
        character = _either(entry, "input_cost_per_character") or spoken
    elif mode in _IMAGES or sizes:
        by_size = tuple((term, rate) for term, one in sizes.items() if (rate := _sized(term, one)))
        image, pixel = _image(entry), _either(entry, *_PER_PIXEL)
        if image is None and pixel is None:
            image = max((rate for _, rate in by_size), default=None)
    text = _rate(entry, "input_cost_per_token"), _rate(entry, "cache_read_input_token_cost")
    rates = PieceRates(
        second=second,
        character=character,
        image=image,
        pixel=pixel,
        sizes=by_size,
        audio_input=_unlike(entry, "input_cost_per_audio_token", text[0]),
        audio_cached=_unlike(entry, "cache_read_input_audio_token_cost", text[1]),
        audio_output=_unlike(entry, "output_cost_per_audio_token", _output(entry)),
        image_input=_unlike(entry, "input_cost_per_image_token", text[0]),
        image_cached=_unlike(entry, "cache_read_input_image_token_cost", text[1]),
        image_output=_unlike(entry, "output_cost_per_image_token", _output(entry)),
    )
    return None if rates == _NO_PIECES else rates


def _image(entry: Mapping[str, Any]) -> int | None:
    return _either(entry, "output_cost_per_image", "input_cost_per_image")


def _sized(term: str, entry: Mapping[str, Any]) -> int:
    """Return the rate of an image of the size that ends `term`, 0 if there is none."""
    width, _, height = term.partition("/")[2].partition("x")
    pixels = int(width) * int(height)
    return _image(entry) or _either(entry, *_PER_PIXEL, times=pixels) or 0


def _either(entry: Mapping[str, Any], *keys: str, times: int = 1) -> int | None:
    """Return the first rate that is stated and not 0, of so many at once; None if none is."""
    return next((rate for key in keys if (rate := _rate(entry, key, times))), None)


def _unlike(entry: Mapping[str, Any], key: str, text: int | None) -> int | None:
    rate = _rate(entry, key) or None
    return None if rate == text else rate


def _services(entry: Mapping[str, Any], base: ModelPrice) -> Iterator[tuple[str, ModelPrice]]:
    """Yield the prices of service tiers. What a tier does not state is as on standard terms."""
    for service in _SERVICES:
        if _rate(entry, f"input_cost_per_token_{service}"):
            suffix = f"_{service}"
            stated = {key.removesuffix(suffix): entry[key] for key in entry if key.endswith(suffix)}
            rest = {key: entry[key] for key in entry if not key.endswith(_SERVICES)}
            if "output_cost_per_token" in stated:
                rest.pop("output_cost_per_reasoning_token", None)
            price = price_from_entry({**rest, "provider_specific_entry": None, **stated})
            yield service, price or base


def _multipliers(entry: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield what Claude's fast mode and inference in one country multiply the price by."""
    stated = entry.get("provider_specific_entry")
    factors = stated if isinstance(stated, Mapping) else {}
    for word in _MULTIPLIERS:
        factor = factors.get(word)
        if isinstance(factor, int | float) and factor > 0:
            yield word, round(Decimal(str(factor)) * 1000)


def _tiers(
    entry: Mapping[str, Any], base: ModelPrice, steps: list[Mapping[str, Any]]
) -> Iterator[tuple[int, ModelPrice]]:
    """Yield the rates of long calls. What a tier does not state is as for short ones.

    A threshold is exclusive, but for xAI, which counts a call of exactly so many tokens as long.
    """
    for thousands in _THRESHOLDS:
        above = f"_above_{thousands}k_tokens"
        if _rate(entry, f"input_cost_per_token{above}"):
            least = thousands * 1000 - (entry.get("litellm_provider") == "xai")
            yield least, _tier(entry, base, above)
    for step in steps:
        yield int(step["range"][0]), _tier(step, base, "")


def _tier(entry: Mapping[str, Any], base: ModelPrice, above: str) -> ModelPrice:
    plain = _rate(entry, f"input_cost_per_token{above}") or base.input
    read, write = (
        plain if rate == base.input else rate for rate in (base.cached_read, base.cache_write)
    )
    hour = _rate(entry, f"cache_creation_input_token_cost_above_1hr{above}")
    return ModelPrice(
        input=plain,
        output=_rate(entry, f"output_cost_per_token{above}") or base.output,
        cached_read=_rate(entry, f"cache_read_input_token_cost{above}") or read,
        cache_write=_rate(entry, f"cache_creation_input_token_cost{above}") or write,
        cache_write_1h=hour or base.cache_write_1h,
        reasoning=_rate(entry, f"output_cost_per_reasoning_token{above}") or base.reasoning,
        pieces=base.pieces,
    )


def _steps(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the steps of a `tiered_pricing` list by input length, if it is one."""
    steps = entry.get("tiered_pricing")
    whole = isinstance(steps, list) and all(
        isinstance(step, Mapping) and step.get("range") for step in steps
    )
    return sorted(steps, key=lambda step: step["range"][0]) if steps and whole else []


def _search(sizes: object) -> int:
    """Return nano-dollars of one search at the size that providers take by default."""
    medium = sizes.get("search_context_size_medium") if isinstance(sizes, Mapping) else None
    return round(Decimal(str(medium)) * 10**9) if isinstance(medium, int | float) else 0


def _rate(entry: Mapping[str, Any], key: str, times: int = 1) -> int:
    usd = entry.get(key)
    if isinstance(usd, int | float) and not isinstance(usd, bool) and usd > 0:
        return rate_from_usd_per_token(usd if times == 1 else Decimal(str(usd)) * times)
    return 0


def _ceiling(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value > 0 else None
