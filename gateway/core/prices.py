"""What calls cost, in integer nano-dollars.

A rate is nano-dollars per million tokens, an integer even for rates such as $0.0375 per million.
The list is the litellm package's JSON read as data, with `config/prices.yaml` over it. A model
without a positive price of input tokens or of pieces has no price: `None`, never 0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache

from gateway.core.piece_rates import PieceRates
from gateway.core.usage import Usage

_TOKENS_PER_MILLION = 1_000_000
_NANO_USD_PER_MILLION_TOKENS = 10**15  # dollars per token -> nano-dollars per million tokens
_DATE_SUFFIX = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Rates of one model in nano-dollars per million tokens, and its ceilings in tokens.

    `cache_write_1h` and `reasoning` are None where they are those of any write, any output. A web
    search costs `search_nano_usd`. `tiers` are the rates of long calls, shortest first: each holds
    for a whole call whose input is above that many tokens. `services` are the prices of service
    tiers by their word in `Usage.terms`, `per_mille` what other words multiply every rate by.
    `pieces` are the rates of what is no text, None where there are none.
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
    pieces: PieceRates | None = None

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
        if rates.pieces is not None:
            micro += rates.pieces_micro(rates.pieces, usage)
        return -(-micro // _TOKENS_PER_MILLION) + usage.web_searches * self.search_nano_usd

    def pieces_micro(self, pieces: PieceRates, usage: Usage) -> int:
        """Return what is to be paid beside text tokens, in millionths of a nano-dollar."""
        micro = pieces.micro_nano_usd(
            usage,
            has_input=self.input > 0 and usage.input_total > 0,
            has_output=self.output > 0 and usage.output_total > 0,
        )
        if usage.modalities is not None:
            text = self.input, self.cached_read, self.output
            micro += pieces.token_extra(usage, usage.modalities, text)
        return micro

    def answers(self, usage: Usage) -> bool:
        """Return whether anything that was used has a rate here; nothing used needs none.

        A model that is priced by the piece only says nothing of tokens: they are not free.
        """
        if self.pieces is None or not self.pieces.has_pieces or self.input or self.output:
            return True
        return not usage.total or any((usage.seconds, usage.characters, usage.images))

    @property
    def worst_input(self) -> int:
        """Return the dearest rate at which an input token may be billed."""
        return max(self.input, self.cached_read, self.cache_write, self.cache_write_1h or 0)

    def input_nano_usd(self, tokens: int, *, is_text: bool = True) -> int:
        """Return the most that `tokens` of input may cost."""
        rates = self.at(tokens)
        worst = rates.worst_input
        if not is_text and rates.pieces is not None:
            worst = max(worst, rates.pieces.worst_input)
        return -(-tokens * worst // _TOKENS_PER_MILLION)

    def pieces_nano_usd(self, asked: Usage, input_tokens: int, output_tokens: int) -> int:
        """Return what the pieces that a request asks for cost beside so many tokens."""
        if self.pieces is None:
            return 0
        micro = self.pieces.micro_nano_usd(
            asked,
            has_input=self.input > 0 and input_tokens > 0,
            has_output=self.output > 0 and output_tokens > 0,
        )
        return -(-micro // _TOKENS_PER_MILLION)

    @property
    def unit_nano_usd(self) -> int:
        """Return the most that one output token may cost, rounded up."""
        worst = max(self.output, self.reasoning or 0)
        if self.pieces is not None:
            worst = max(worst, self.pieces.worst_output)
        return -(-worst // _TOKENS_PER_MILLION)


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
