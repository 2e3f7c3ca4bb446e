"""What tokens cost, in integer nano-dollars.

A rate is nano-dollars per million tokens, an integer even for rates such as $0.0375 per million.
The list is the litellm package's JSON read as data, with `config/prices.yaml` over it. A model
without a positive input price has no price: `None`, never 0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gateway.core.usage import Usage

_TOKENS_PER_MILLION = 1_000_000
_NANO_USD_PER_MILLION_TOKENS = 10**15  # dollars per token -> nano-dollars per million tokens
_NO_OUTPUT = ("embedding", "rerank")
_DATE_SUFFIX = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Rates of one model in nano-dollars per million tokens, and its ceilings in tokens."""

    input: int
    output: int
    cached_read: int
    cache_write: int
    max_output_tokens: int | None = None
    max_input_tokens: int | None = None

    def cost_nano_usd(self, usage: Usage) -> int:
        """Return the cost of a call, rounded up to a nano-dollar."""
        micro = (
            usage.plain_input * self.input
            + usage.cached_read * self.cached_read
            + usage.cache_write * self.cache_write
            + usage.output_total * self.output
        )
        return -(-micro // _TOKENS_PER_MILLION)

    @property
    def worst_input(self) -> int:
        """Return the dearest rate at which an input token may be billed."""
        return max(self.input, self.cached_read, self.cache_write)

    def input_nano_usd(self, tokens: int) -> int:
        """Return the most that `tokens` of input may cost."""
        return -(-tokens * self.worst_input // _TOKENS_PER_MILLION)

    @property
    def unit_nano_usd(self) -> int:
        """Return the cost of one output token, rounded up."""
        return -(-self.output // _TOKENS_PER_MILLION)


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


def rate_from_usd_per_token(usd: float | str | Decimal) -> int:
    """Return nano-dollars per million tokens for a price in dollars per token."""
    return round(Decimal(str(usd)) * _NANO_USD_PER_MILLION_TOKENS)


def price_from_entry(entry: Mapping[str, Any]) -> ModelPrice | None:
    """Return the price that an entry of the litellm list states, or None if it states none.

    A missing cache rate falls back to the input rate: no discount that nobody promised. A missing
    output rate is none at all (images are priced by the piece), except where there is no output.
    """
    plain = _rate(entry, "input_cost_per_token")
    if not plain or ("output_cost_per_token" not in entry and entry.get("mode") not in _NO_OUTPUT):
        return None
    return ModelPrice(
        input=plain,
        output=_rate(entry, "output_cost_per_token"),
        cached_read=_rate(entry, "cache_read_input_token_cost") or plain,
        cache_write=_rate(entry, "cache_creation_input_token_cost") or plain,
        max_output_tokens=_ceiling(entry.get("max_output_tokens")),
        max_input_tokens=_ceiling(entry.get("max_input_tokens")),
    )


def _rate(entry: Mapping[str, Any], key: str) -> int:
    usd = entry.get(key)
    if isinstance(usd, int | float) and not isinstance(usd, bool) and usd > 0:
        return rate_from_usd_per_token(usd)
    return 0


def _ceiling(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value > 0 else None
