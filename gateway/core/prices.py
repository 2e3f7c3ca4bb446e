"""What tokens cost, in integer nano-dollars.

A rate is nano-dollars per million tokens, an integer even for rates such as $0.0375 per million.
The list is the litellm package's JSON read as data, with `config/prices.yaml` over it. A model
without a positive input price has no price: `None`, never 0.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from gateway.core.usage import Usage

_TOKENS_PER_MILLION = 1_000_000
_NANO_USD_PER_MILLION_TOKENS = 10**15  # dollars per token -> nano-dollars per million tokens
_NO_OUTPUT = ("embedding", "rerank")
_THRESHOLDS = (100, 128, 200, 272, 512)  # thousands of input tokens, as the list's keys name them
_SERVICES = ("flex", "priority")
_MULTIPLIERS = ("fast", "us")
_DATE_SUFFIX = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Rates of one model in nano-dollars per million tokens, and its ceilings in tokens.

    `cache_write_1h` and `reasoning` are None where they are those of any write, any output. A web
    search costs `search_nano_usd`. `tiers` are the rates of long calls, shortest first: each holds
    for a whole call whose input is above that many tokens. `services` are the prices of service
    tiers by their word in `Usage.terms`, `per_mille` what other words multiply every rate by.
    """

    input: int
    output: int
    cached_read: int
    cache_write: int
    max_output_tokens: int | None = None
    max_input_tokens: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    search_nano_usd: int = 0
    tiers: tuple[tuple[int, "ModelPrice"], ...] = ()
    services: tuple[tuple[str, "ModelPrice"], ...] = ()
    per_mille: tuple[tuple[str, int], ...] = ()

    def at(self, input_tokens: int) -> "ModelPrice":
        """Return the rates of a call with this much input, cached tokens included."""
        rates = self
        for above, dearer in self.tiers:
            if input_tokens > above:
                rates = dearer
        return rates

    def on(self, terms: str) -> "ModelPrice":
        """Return the price on a call's `Usage.terms`; words not known here change nothing."""
        price = self
        services, per_mille = dict(self.services), dict(self.per_mille)
        for term in terms.split():
            price = services.get(term, price)
        for term in terms.split():
            if term in per_mille:
                price = _times(price, per_mille[term])
        return price

    def held_on(self, terms: str) -> "ModelPrice":
        """Return the dearer of this and the price on the terms that a request asks for."""
        return max(self, self.on(terms), key=lambda price: (price.worst_input, price.output))

    def cost_nano_usd(self, usage: Usage) -> int:
        """Return the cost of a call, rounded up to a nano-dollar."""
        rates = self.on(usage.terms) if usage.terms else self
        if rates.tiers:
            rates = rates.at(usage.input_total)
        micro = (
            usage.plain_input * rates.input
            + usage.cached_read * rates.cached_read
            + usage.cache_write * rates.cache_write
            + usage.output_total * rates.output
        )
        if rates.cache_write_1h is not None:
            micro += usage.cache_write_1h * (rates.cache_write_1h - rates.cache_write)
        if rates.reasoning is not None:
            micro += usage.reasoning * (rates.reasoning - rates.output)
        return -(-micro // _TOKENS_PER_MILLION) + usage.web_searches * self.search_nano_usd

    @property
    def worst_input(self) -> int:
        """Return the dearest rate at which an input token may be billed."""
        return max(self.input, self.cached_read, self.cache_write, self.cache_write_1h or 0)

    def input_nano_usd(self, tokens: int) -> int:
        """Return the most that `tokens` of input may cost."""
        return -(-tokens * self.at(tokens).worst_input // _TOKENS_PER_MILLION)

    @property
    def unit_nano_usd(self) -> int:
        """Return the cost of one output token, rounded up."""
        return -(-max(self.output, self.reasoning or 0) // _TOKENS_PER_MILLION)


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by model name; `models` is everything, `overrides` those that the operator stated.

    A name is looked up with its date, then without; as the provider's own first, for the same
    model may cost more there; and in the overrides first, so that one for `gemini-2.5-pro` holds
    though the list has a `gemini/gemini-2.5-pro`.
    """

    models: Mapping[str, ModelPrice] = field(default_factory=dict)
    overrides: Mapping[str, ModelPrice] = field(default_factory=dict)

    def find(self, model: str, provider: str = "") -> ModelPrice | None:
        """Return the price of `model` as served by `provider`, or None if it is not known."""
        for variant in (model, _DATE_SUFFIX.sub("", model)):
            for prices in (self.overrides, self.models):
                for name in (f"{provider}/{variant}", variant):
                    price = prices.get(name)
                    if price is not None:
                        return price
        return None


class ModelsInUse:
    """Models that calls have named and that had a price: (provider, model). The latest 1,000.

    A reload that leaves one of them without a price is refused (GW-5).
    """

    _MOST = 1_000

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], None] = {}
        self._news: list[tuple[str, str]] = []

    def add(self, provider: str, model: str) -> None:
        """Take note of a model that a call has named; the oldest of too many goes."""
        used = (provider, model)
        if used not in self._known:
            self._known[used] = None
            self._news.append(used)
            if len(self._known) > self._MOST:
                del self._known[next(iter(self._known))]

    def take_news(self) -> list[tuple[str, str]]:
        """Return those that came since this was asked last."""
        news, self._news = self._news, []
        return news

    def dropped_by(self, prices: PriceTable) -> list[str]:
        """Return the models that would have no price any more, in order of their names."""
        return sorted(
            {model for provider, model in self._known if prices.find(model, provider) is None}
        )


@lru_cache(maxsize=4_096)
def rate_from_usd_per_token(usd: float | str | Decimal) -> int:
    """Return nano-dollars per million tokens for a price in dollars per token.

    Remembered: a list of thousands of models has a few hundred prices.
    """
    return round(Decimal(str(usd)) * _NANO_USD_PER_MILLION_TOKENS)


def price_from_entry(entry: Mapping[str, Any]) -> ModelPrice | None:
    """Return the price that an entry of the litellm list states, or None if it states none.

    A missing cache rate falls back to the input rate: no discount that nobody promised. A missing
    output rate is none at all (images are priced by the piece), except where there is no output.
    """
    steps = _steps(entry)
    if steps:
        entry = {**entry, **steps[0]}
    plain = _rate(entry, "input_cost_per_token")
    if not plain or ("output_cost_per_token" not in entry and entry.get("mode") not in _NO_OUTPUT):
        return None
    base = ModelPrice(
        input=plain,
        output=_rate(entry, "output_cost_per_token"),
        cached_read=_rate(entry, "cache_read_input_token_cost") or plain,
        cache_write=_rate(entry, "cache_creation_input_token_cost") or plain,
        max_output_tokens=_ceiling(entry.get("max_output_tokens")),
        max_input_tokens=_ceiling(entry.get("max_input_tokens")),
        cache_write_1h=_rate(entry, "cache_creation_input_token_cost_above_1hr") or None,
        reasoning=_rate(entry, "output_cost_per_reasoning_token") or None,
        search_nano_usd=_search(entry.get("search_context_cost_per_query")),
    )
    price = replace(base, tiers=tuple(_tiers(entry, base, steps[1:])))
    services, per_mille = tuple(_services(entry, price)), tuple(_multipliers(entry))
    return (
        replace(price, services=services, per_mille=per_mille) if services or per_mille else price
    )


def _services(entry: Mapping[str, Any], base: ModelPrice) -> Iterator[tuple[str, ModelPrice]]:
    """Yield the prices of service tiers. What a tier does not state is as on standard terms."""
    for service in _SERVICES:
        if _rate(entry, f"input_cost_per_token_{service}"):
            suffix = f"_{service}"
            stated = {key.removesuffix(suffix): entry[key] for key in entry if key.endswith(suffix)}
            rest = {key: entry[key] for key in entry if not key.endswith(_SERVICES)}
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


def _times(price: ModelPrice, per_mille: int) -> ModelPrice:
    """Return a price with every token rate multiplied; searches cost what they cost."""
    hour, reasoning = price.cache_write_1h, price.reasoning
    return replace(
        price,
        input=_share(price.input, per_mille),
        output=_share(price.output, per_mille),
        cached_read=_share(price.cached_read, per_mille),
        cache_write=_share(price.cache_write, per_mille),
        cache_write_1h=None if hour is None else _share(hour, per_mille),
        reasoning=None if reasoning is None else _share(reasoning, per_mille),
        tiers=tuple((above, _times(dearer, per_mille)) for above, dearer in price.tiers),
    )


def _share(rate: int, per_mille: int) -> int:
    return -(-rate * per_mille // 1000)


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


def _rate(entry: Mapping[str, Any], key: str) -> int:
    usd = entry.get(key)
    if isinstance(usd, int | float) and not isinstance(usd, bool) and usd > 0:
        return rate_from_usd_per_token(usd)
    return 0


def _ceiling(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value > 0 else None
