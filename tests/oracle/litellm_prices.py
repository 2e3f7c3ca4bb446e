"""Compare prices with litellm's own arithmetic; a script, for litellm is heavy.

Prints JSON: how much was compared, by group, and the models that differ, by the rule that explains
it, or under `unexplained`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before the import, or it asks a server

import litellm
from litellm.cost_calculator import cost_per_token, default_image_cost_calculator
from litellm.litellm_core_utils.llm_cost_calc.utils import generic_cost_per_token
from litellm.llms.anthropic.cost_calculation import cost_per_token as anthropic_cost
from litellm.types.utils import (
    CacheCreationTokenDetails,
    CompletionTokensDetailsWrapper,
    PromptTokensDetailsWrapper,
)
from litellm.types.utils import Usage as TheirUsage

from gateway.core.piece_rates import PieceRates
from gateway.core.prices import ModelPrice
from gateway.core.usage import Modalities, Usage
from gateway.rule_files.price_list import read_price_list

Calculator = Callable[[str, str, Usage], float]

_SHOWN, _MADE = "input_cost_per_image", "output_cost_per_image"
OUTPUT = 500
TOKENS = (
    Usage(1_000, output_total=OUTPUT, reasoning=300),
    Usage(11_000, 8_000, 1_000, OUTPUT),
    Usage(11_000, 0, 9_000, OUTPUT, cache_write_1h=6_000),
    Usage(600_000, output_total=OUTPUT),
    Usage(600_000, 8_000, 9_000, OUTPUT, 300, cache_write_1h=6_000),
)
TIERS = tuple(
    Usage(tokens, read, 1_000, OUTPUT, reasoning, terms=tier)
    for tier in ("flex", "priority")
    for tokens, read, reasoning in ((1_000, 0, 0), (11_000, 8_000, 300), (600_000, 8_000, 300))
)
CLAUDE = tuple(
    Usage(11_000, 8_000, 1_000, OUTPUT, cache_write_1h=600, terms=terms)
    for terms in ("fast", "us", "fast us")
)
KINDS = (
    Usage(1_000, output_total=OUTPUT, modalities=Modalities(audio_input=700, audio_output=400)),
    Usage(1_000, 0, 0, OUTPUT, modalities=Modalities(image_input=700, image_output=400)),
    Usage(1_000, 300, 0, OUTPUT, modalities=Modalities(audio_input=700, audio_cached=200)),
    Usage(1_000, 300, 0, OUTPUT, modalities=Modalities(image_input=700, image_cached=200)),
)


def their_usage(usage: Usage) -> TheirUsage:
    """Return a usage as litellm has it."""
    kinds = usage.modalities or Modalities()
    cached = {"audio_tokens": kinds.audio_cached, "image_tokens": kinds.image_cached}
    into = PromptTokensDetailsWrapper(
        cached_tokens=usage.cached_read,
        cache_creation_tokens=usage.cache_write,
        audio_tokens=kinds.audio_input,
        image_tokens=kinds.image_input,
        cached_tokens_details=cached if any(cached.values()) else None,
    )
    if usage.cache_write_1h:
        into.cache_creation_token_details = CacheCreationTokenDetails(
            ephemeral_5m_input_tokens=usage.cache_write - usage.cache_write_1h,
            ephemeral_1h_input_tokens=usage.cache_write_1h,
        )
    return TheirUsage(
        prompt_tokens=usage.input_total,
        completion_tokens=usage.output_total,
        total_tokens=usage.total,
        prompt_tokens_details=into,
        completion_tokens_details=CompletionTokensDetailsWrapper(
            reasoning_tokens=usage.reasoning,
            audio_tokens=kinds.audio_output,
            image_tokens=kinds.image_output,
        ),
        cache_creation_input_tokens=usage.cache_write,
        cache_read_input_tokens=usage.cached_read,
    )


def by_tokens(model: str, provider: str, usage: Usage) -> float:
    """Return litellm's cost of tokens in dollars."""
    theirs = their_usage(usage)
    if usage.terms in ("flex", "priority"):
        return sum(generic_cost_per_token(model, theirs, provider, service_tier=usage.terms))
    if usage.terms:
        theirs.speed = "fast" if "fast" in usage.terms else None
        theirs.inference_geo = "us" if "us" in usage.terms else None
        return sum(anthropic_cost(model, theirs))
    return sum(generic_cost_per_token(model, theirs, provider))


def by_second(model: str, provider: str, usage: Usage) -> float:
    """Return litellm's cost of a recording in dollars."""
    return sum(
        cost_per_token(
            model,
            custom_llm_provider=provider,
            call_type="transcription",
            audio_transcription_file_duration=float(usage.seconds),
        )
    )


def by_character(model: str, provider: str, usage: Usage) -> float:
    """Return litellm's cost of speech in dollars."""
    return sum(
        cost_per_token(
            model,
            custom_llm_provider=provider,
            call_type="speech",
            prompt_characters=usage.characters,
        )
    )


def by_image(model: str, provider: str, usage: Usage) -> float:
    """Return litellm's cost of images in dollars."""
    quality, _, size = usage.terms.partition("/")
    return float(
        default_image_cost_calculator(model, provider, quality or None, usage.images, size or None)
    )


def cases(
    model: str, entry: Mapping[str, Any], price: ModelPrice
) -> Iterator[tuple[str, Calculator, Usage]]:
    """Yield group, calculator and usage of everything that a model is compared by."""
    mode = entry.get("mode")
    if mode in ("chat", "responses"):
        yield from (("tokens", by_tokens, usage) for usage in TOKENS)
        tiers = TIERS if price.services else ()
        yield from (("tiers", by_tokens, usage) for usage in tiers)
        claude = CLAUDE if entry["litellm_provider"] == "anthropic" else ()
        yield from (("claude", by_tokens, usage) for usage in claude)
    if price.pieces is None:
        return
    if mode in ("chat", "responses", "realtime", "image_generation") and price.input:
        yield from (("kinds", by_tokens, usage) for usage in KINDS)
    yield from (("pieces", *case) for case in pieces(model, entry, price.pieces))


def pieces(
    model: str, entry: Mapping[str, Any], rates: PieceRates
) -> Iterator[tuple[Calculator, Usage]]:
    """Yield calculator and usage of what is priced by the piece."""
    mode = entry.get("mode")
    if mode == "audio_transcription" and rates.second:
        yield by_second, Usage(seconds=67)
    if mode == "audio_speech" and "input_cost_per_character" in entry:
        yield by_character, Usage(characters=1_234)
    if rates.sizes:
        yield from ((by_image, Usage(images=2, terms=term)) for term, _ in rates.sizes)
    elif mode in ("image_generation", "image_edit") and rates.has_pieces and "-x-" not in model:
        yield by_image, Usage(images=3)


def rule_of(model: str, entry: Mapping[str, Any], usage: Usage) -> str:
    """Return the name of the rule by which a difference is meant."""
    provider = entry.get("litellm_provider")
    kinds = usage.modalities or Modalities()
    of_0 = (
        usage.cached_read and entry.get("cache_read_input_token_cost") == 0,
        usage.cache_write and entry.get("cache_creation_input_token_cost") == 0,
    )
    rules = {
        "listed twice": f"{provider}/{model}" in litellm.model_cost,
        "free cache": any(of_0),
        "fireworks cache": usage.cached_read and provider == "fireworks_ai",
        "cached images": kinds.image_cached and "cache_read_input_image_token_cost" in entry,
        "image shown": usage.images and entry.keys() >= {_SHOWN, _MADE},
    }
    return next((rule for rule, holds in rules.items() if holds), "unexplained")


def differs(cost: float, ours: int) -> bool:
    """Return whether two costs differ by more than ours is rounded up, and theirs is a float."""
    return abs(cost - ours) > 1 + cost * 1e-9


def main() -> None:
    """Compare, and print what differs."""
    found: dict[str, set[str]] = defaultdict(set)
    compared: dict[str, int] = defaultdict(int)
    for model, price in read_price_list()[0].items():
        entry = litellm.model_cost.get(model, {})
        if "off_peak_pricing" in entry:  # what litellm says hangs on the time of day
            found["off-peak"].add(model)
            continue
        for group, calculate, usage in cases(model, entry, price):
            compared[group] += 1
            provider = entry.get("litellm_provider") or model.partition("/")[0]
            cost = calculate(model, provider, usage) * 1e9
            if differs(cost, price.cost_nano_usd(usage)):
                found[rule_of(model, entry, usage)].add(model)
    rules = {rule: sorted(names) for rule, names in found.items()}
    print(json.dumps({"compared": compared, "rules": rules}))


main()
