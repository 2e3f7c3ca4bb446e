"""`GET /admin/v1/prices?model=`: what a model costs here, and its ceilings."""

from aiohttp import web

from gateway.admin.answers import ApiError, json_answer
from gateway.admin.bodies import Body, Usd
from gateway.admin.parts import PARTS
from gateway.admin.query import Query, invalid_query
from gateway.admin.views import usd
from gateway.core.prices import ModelPrice

_LONGEST = 256


class RatesBody(Body):
    """US dollars per million tokens. `cache_write_1h` and `reasoning` null: as any other."""

    input: Usd
    output: Usd
    cached_read: Usd
    cache_write: Usd
    cache_write_1h: Usd | None
    reasoning: Usd | None


class LongCallRatesBody(RatesBody):
    """The rates of a whole call whose input is above that many tokens."""

    above_input_tokens: int


class PriceBody(Body):
    """A model's price; `web_search` is of one search."""

    model: str
    provider: str | None
    usd_per_million: RatesBody
    long_calls: list[LongCallRatesBody]
    web_search: Usd
    max_input_tokens: int | None
    max_output_tokens: int | None


async def get_prices(request: web.Request) -> web.Response:
    """Return the price of a model, as calls to it are charged now."""
    query = Query(request, ("model", "provider"))
    model, provider = query.text("model"), query.text("provider")
    if not 1 <= len(model) <= _LONGEST:
        raise invalid_query("model", "name a model")
    price = request.app[PARTS].rules().prices.find(model, provider)
    if price is None:
        raise ApiError(
            404,
            "unknown_price",
            f"No price is known for {model!r}. Remedy: state it in the price file; until then a "
            "policy of kind unpriced_model says what happens.",
            field="model",
        )
    tiers = [
        LongCallRatesBody(**vars(_rates(rates)), above_input_tokens=above)
        for above, rates in price.tiers
    ]
    return json_answer(
        PriceBody(
            model=model,
            provider=provider or None,
            usd_per_million=_rates(price),
            long_calls=tiers,
            web_search=usd(price.search_nano_usd),
            max_input_tokens=price.max_input_tokens,
            max_output_tokens=price.max_output_tokens,
        )
    )


def _rates(price: ModelPrice) -> RatesBody:
    hour, reasoning = price.cache_write_1h, price.reasoning
    return RatesBody(
        input=usd(price.input),
        output=usd(price.output),
        cached_read=usd(price.cached_read),
        cache_write=usd(price.cache_write),
        cache_write_1h=None if hour is None else usd(hour),
        reasoning=None if reasoning is None else usd(reasoning),
    )
