"""What calls cost, in integer nano-dollars."""

import math
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.price_entry import price_from_entry
from gateway.core.prices import ModelPrice, ModelsInUse, PriceTable, rate_from_usd_per_token
from gateway.core.usage import Usage

ENTRY: dict[str, Any] = {
    "input_cost_per_token": 3e-06,
    "output_cost_per_token": 1.5e-05,
    "cache_read_input_token_cost": 3e-07,
    "cache_creation_input_token_cost": 3.75e-06,
    "max_output_tokens": 64_000,
    "max_input_tokens": 200_000,
    "mode": "chat",
}
PRICE = ModelPrice(3 * 10**9, 15 * 10**9, 3 * 10**8, 3_750_000_000, 64_000, 200_000)


def test_an_entry_of_the_list_is_read_whole() -> None:
    assert price_from_entry(ENTRY) == PRICE


@pytest.mark.parametrize(
    ("usd", "rate"),
    [(3e-06, 3 * 10**9), (3.75e-08, 37_500_000), ("1e-15", 1), (1.25e-07, 125 * 10**6)],
)
def test_rates_are_integers_even_for_small_prices(usd: float | str, rate: int) -> None:
    """D10: a binary float is read as the decimal that it was written as."""
    assert rate_from_usd_per_token(usd) == rate


@pytest.mark.parametrize(
    "change",
    [
        {"input_cost_per_token": 0},
        {"input_cost_per_token": 0.0},
        {"input_cost_per_token": None},
        {"input_cost_per_token": -1e-6},
        {"input_cost_per_token": "3e-06"},
        {"input_cost_per_token": True},
    ],
)
def test_a_model_without_a_positive_input_price_has_no_price(change: dict[str, Any]) -> None:
    """GW-5: unknown is not free."""
    assert price_from_entry({**ENTRY, **change}) is None


def test_a_model_whose_output_price_is_missing_has_no_price() -> None:
    """GW-5: images are priced by the piece; their tokens would be free."""
    entry = {k: v for k, v in ENTRY.items() if k != "output_cost_per_token"}
    assert price_from_entry({**entry, "mode": "image_generation"}) is None
    assert price_from_entry(entry) is None


@pytest.mark.parametrize("mode", ["embedding", "rerank"])
def test_a_model_without_output_needs_no_output_price(mode: str) -> None:
    price = price_from_entry({"input_cost_per_token": 2e-08, "mode": mode})
    assert price == ModelPrice(20_000_000, 0, 20_000_000, 20_000_000)


def test_a_missing_cache_rate_is_the_input_rate() -> None:
    """GW-4: no discount that nobody promised."""
    price = price_from_entry({"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06})
    assert price == ModelPrice(10**9, 2 * 10**9, 10**9, 10**9)


@pytest.mark.parametrize("ceiling", [None, 0, -1, "see the documentation"])
def test_a_ceiling_that_is_no_positive_number_is_none(ceiling: object) -> None:
    price = price_from_entry({**ENTRY, "max_output_tokens": ceiling})
    assert price is not None
    assert price.max_output_tokens is None


def test_each_kind_of_token_is_priced_once_at_its_own_rate() -> None:
    """GW-4: cached and written tokens are part of the input, reasoning of the output."""
    usage = Usage(
        input_total=1_000_000,
        cached_read=600_000,
        cache_write=100_000,
        output_total=10_000,
        reasoning=4_000,
    )
    expected = 0.3 * 3 + 0.6 * 0.3 + 0.1 * 3.75 + 0.01 * 15
    assert PRICE.cost_nano_usd(usage) == round(expected * 10**9)


@given(
    plain=st.integers(0, 10**9),
    read=st.integers(0, 10**9),
    write=st.integers(0, 10**9),
    output=st.integers(0, 10**9),
)
def test_cost_is_the_exact_sum_rounded_up(plain: int, read: int, write: int, output: int) -> None:
    exact = Fraction(
        plain * PRICE.input
        + read * PRICE.cached_read
        + write * PRICE.cache_write
        + output * PRICE.output,
        10**6,
    )
    usage = Usage(plain + read + write, read, write, output)
    assert PRICE.cost_nano_usd(usage) == math.ceil(exact)


@given(tokens=st.integers(0, 10**9))
def test_the_bound_of_an_input_covers_its_dearest_split(tokens: int) -> None:
    bound = PRICE.input_nano_usd(tokens)
    assert PRICE.worst_input == PRICE.cache_write
    for usage in (Usage(tokens), Usage(tokens, tokens), Usage(tokens, 0, tokens)):
        assert PRICE.cost_nano_usd(usage) <= bound


def test_the_unit_is_one_output_token_rounded_up() -> None:
    assert PRICE.unit_nano_usd == 15_000
    assert ModelPrice(1, 1, 1, 1).unit_nano_usd == 1


# long calls, and what has a rate of its own


def test_a_long_call_is_dearer_as_a_whole() -> None:
    """Strictly above the threshold, counted with what was cached (gemini-2.5-pro's prices)."""
    entry = {
        "input_cost_per_token": 1.25e-06,
        "output_cost_per_token": 1e-05,
        "input_cost_per_token_above_200k_tokens": 2.5e-06,
        "output_cost_per_token_above_200k_tokens": 1.5e-05,
    }
    price = price_from_entry(entry)
    assert price is not None
    assert price.cost_nano_usd(Usage(200_000)) == 250_000_000
    assert price.cost_nano_usd(Usage(200_001, 200_001)) == 500_002_500
    assert price.cost_nano_usd(Usage(200_001, output_total=10)) == 500_002_500 + 150_000
    assert price.input_nano_usd(200_001) == 500_002_500
    of_xai = price_from_entry({**entry, "litellm_provider": "xai"})
    assert of_xai is not None
    assert of_xai.cost_nano_usd(Usage(200_000)) == 500_000_000
    assert of_xai.cost_nano_usd(Usage(199_999)) == 249_998_750


def test_a_list_of_steps_is_read_as_tiers() -> None:
    steps = [
        {"input_cost_per_token": 5e-08, "output_cost_per_token": 4e-07, "range": [0, 256e3]},
        {"input_cost_per_token": 2.5e-07, "output_cost_per_token": 2e-06, "range": [256e3, 1e6]},
    ]
    price = price_from_entry({"tiered_pricing": steps})
    assert price is not None
    assert price.cost_nano_usd(Usage(256_000)) == 12_800_000
    assert price.cost_nano_usd(Usage(256_001)) == 64_000_250
    assert price_from_entry({"tiered_pricing": [{"input_cost_per_token": 1e-6}]}) is None


def test_a_sonnet_call_with_a_cache_costs_what_it_is_billed() -> None:
    """2,000 fresh, 8,000 read, 1,000 written: $0.01215; an hour's writes cost more."""
    hour = {**ENTRY, "cache_creation_input_token_cost_above_1hr": 6e-06}
    price = price_from_entry(hour)
    assert price is not None
    assert price.cost_nano_usd(Usage(11_000, 8_000, 1_000)) == 12_150_000
    assert price.cost_nano_usd(Usage(11_000, 8_000, 1_000, cache_write_1h=400)) == 13_050_000
    assert price.worst_input == 6 * 10**9


def test_reasoning_and_searches_have_rates_of_their_own() -> None:
    sizes = {"search_context_size_medium": 0.01}
    price = price_from_entry(
        {
            **ENTRY,
            "output_cost_per_reasoning_token": 2e-05,
            "search_context_cost_per_query": sizes,
        }
    )
    assert price is not None
    usage = Usage(output_total=1_000, reasoning=400, web_searches=3)
    assert price.cost_nano_usd(usage) == 600 * 15_000 + 400 * 20_000 + 30_000_000
    assert price.unit_nano_usd == 20_000


# looking prices up


def priced(rate: int) -> ModelPrice:
    return ModelPrice(rate, rate, rate, rate)


def test_a_name_is_found_as_is_and_with_its_provider() -> None:
    table = PriceTable({"gpt-4o": priced(1), "groq/llama": priced(2)})
    assert table.find("gpt-4o", "openai") == priced(1)
    assert table.find("llama", "groq") == priced(2)
    assert table.find("groq/llama") == priced(2)
    assert table.find("llama", "openai") is None
    assert table.find("llama") is None


def test_the_provider_s_own_price_holds_where_both_are_listed() -> None:
    table = PriceTable({"gpt-4-turbo": priced(1), "azure/gpt-4-turbo": priced(2)})
    assert table.find("gpt-4-turbo", "azure") == priced(2)
    assert table.find("gpt-4-turbo", "openai") == priced(1)


@pytest.mark.parametrize("name", ["m-2024-08-06", "m-20240806", "m-0613", "m"])
def test_a_dated_name_falls_back_to_the_undated_one(name: str) -> None:
    assert PriceTable({"m": priced(1)}).find(name) == priced(1)
    assert PriceTable({"p/m": priced(1)}).find(name, "p") == priced(1)


def test_a_dated_price_holds_over_the_undated_one() -> None:
    table = PriceTable({"m": priced(1), "m-2024-05-13": priced(2)}, {"m": priced(3)})
    assert table.find("m-2024-05-13") == priced(2)
    assert table.find("m-2024-08-06") == priced(3)


def test_an_override_holds_over_the_list_under_either_name() -> None:
    listed = {"gemini-pro": priced(1), "gemini/gemini-pro": priced(2)}
    for name in listed:
        table = PriceTable({**listed, name: priced(9)}, {name: priced(9)})
        assert table.find("gemini-pro", "gemini") == priced(9)


def test_an_empty_table_knows_no_price() -> None:
    assert PriceTable().find("gpt-4o", "openai") is None


# service tiers and Claude's multipliers


FLEX_AND_PRIORITY = {
    **ENTRY,
    "input_cost_per_token_flex": 1.5e-06,
    "output_cost_per_token_flex": 7.5e-06,
    "input_cost_per_token_priority": 6e-06,
    "output_cost_per_token_priority": 3e-05,
    "cache_read_input_token_cost_priority": 6e-07,
}


@pytest.mark.parametrize(
    ("terms", "nano_usd"), [("", 18_000), ("flex", 9_000), ("priority", 36_000), ("us", 18_000)]
)
def test_a_call_costs_what_its_service_tier_costs(terms: str, nano_usd: int) -> None:
    price = price_from_entry(FLEX_AND_PRIORITY)
    assert price is not None
    assert price.cost_nano_usd(Usage(1, output_total=1, terms=terms)) == nano_usd
    assert PRICE.cost_nano_usd(Usage(1, output_total=1, terms=terms)) == 18_000


def test_a_tier_takes_from_the_standard_terms_what_it_does_not_state() -> None:
    price = price_from_entry(FLEX_AND_PRIORITY)
    assert price is not None
    assert price.cost_nano_usd(Usage(10, 10, terms="priority")) == 6_000
    assert price.cost_nano_usd(Usage(10, 10, terms="flex")) == 3_000


def test_what_is_held_is_the_dearer_of_the_standard_and_the_asked_tier() -> None:
    """A call that asks for flex may be served, and billed, on standard terms."""
    price = price_from_entry(FLEX_AND_PRIORITY)
    assert price is not None
    assert price.held_on("flex") == price
    assert price.held_on("priority").unit_nano_usd == 30_000


def test_claude_s_multipliers_hold_for_every_token_but_not_for_searches() -> None:
    entry = {
        **ENTRY,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
        "output_cost_per_reasoning_token": 2e-05,
        "input_cost_per_token_above_200k_tokens": 6e-06,
        "search_context_cost_per_query": {"search_context_size_medium": 0.01},
        "provider_specific_entry": {"fast": 2.0, "us": 1.1, "other": "x"},
    }
    price = price_from_entry(entry)
    assert price is not None
    usage = Usage(1_000, 100, 200, 300, 50, 20, web_searches=1)
    plain = price.cost_nano_usd(usage) - 10_000_000
    for terms, times in (("fast", 20), ("us", 11), ("fast us", 22)):
        on_terms = price.cost_nano_usd(msgspec.structs.replace(usage, terms=terms))
        assert on_terms == plain * times // 10 + 10_000_000
    assert price.cost_nano_usd(Usage(200_001, terms="us")) == 200_001 * 6_600
    assert price_from_entry({**ENTRY, "provider_specific_entry": {"fast": 0}}) == PRICE
    one = price_from_entry({**ENTRY, "provider_specific_entry": {"us": 1.1}})
    assert one is not None
    assert one.cost_nano_usd(Usage(10, terms="us")) == 33_000


# Models in use ------------------------------------------------------------------------------------


def test_a_reload_may_not_leave_a_model_in_use_without_a_price() -> None:
    """GW-5. As it would be looked up for the calls that named it."""
    in_use, price = ModelsInUse(), ModelPrice(1, 2, 1, 1)
    for provider, model in (("openai", "b"), ("azure", "a"), ("openai", "a"), ("openai", "b")):
        in_use.add(provider, model)
    assert in_use.take_news() == [("openai", "b"), ("azure", "a"), ("openai", "a")]
    assert in_use.take_news() == []
    assert in_use.dropped_by(PriceTable({"a": price, "b": price})) == []
    assert in_use.dropped_by(PriceTable({"openai/a": price, "b-x": price})) == ["a", "b"]


def test_of_too_many_models_in_use_the_oldest_goes() -> None:
    in_use = ModelsInUse()
    for number in range(1_001):
        in_use.add("openai", f"m-{number:04}")
    dropped = in_use.dropped_by(PriceTable())
    assert len(dropped) == 1_000
    assert dropped[0] == "m-0001"
