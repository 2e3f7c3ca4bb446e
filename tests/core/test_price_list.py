"""The price list: an entry is understood when it is asked for, and once."""

import json
from typing import Any

import msgspec
import pytest

from gateway.core import price_list
from gateway.core.piece_rates import PieceRates
from gateway.core.price_entry import price_from_entry
from gateway.core.price_list import PriceList
from gateway.core.prices import ModelPrice

M: dict[str, Any] = {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
PRICE = ModelPrice(10**9, 2 * 10**9, 10**9, 10**9)
STATED = ModelPrice(5, 6, 5, 5)


def listed(**entries: object) -> PriceList:
    return PriceList(msgspec.json.decode(json.dumps(entries), type=dict[str, msgspec.Raw]))


def image(usd: float) -> dict[str, Any]:
    return {"mode": "image_generation", "output_cost_per_image": usd}


def test_prices_are_found_by_name() -> None:
    """What has no price is not there."""
    prices = listed(m=M, free={}, note="no entry")
    assert prices["m"] == PRICE
    assert [name in prices for name in ("m", "free", "note", "other")] == [True] + [False] * 3
    assert (list(prices), len(prices)) == (["m"], 1)


def test_stated_prices_are_over_the_list() -> None:
    prices = listed(m=M, n=M).under({"m": STATED, "mine": STATED})
    assert dict(prices) == {"m": STATED, "n": PRICE, "mine": STATED}


def test_an_entry_is_understood_once(monkeypatch: pytest.MonkeyPatch) -> None:
    understood: list[object] = []

    def understand(entry: dict[str, Any], sizes: dict[str, Any]) -> ModelPrice | None:
        understood.append(entry)
        return price_from_entry(entry, sizes)

    monkeypatch.setattr(price_list, "price_from_entry", understand)
    prices = listed(m=M, n=M, free={})
    assert understood == []
    for name in ("m", "free", "other") * 2:
        prices.get(name)
    assert understood == [M, {}]


def test_an_entry_of_a_shape_that_none_has_is_no_price() -> None:
    """And no call fails for it."""
    assert "m" not in listed(m={"tiered_pricing": [{"range": ["a"]}, {"range": [1]}]})


def test_sizes_of_images_are_found_under_the_model_s_own_name() -> None:
    """What names no quality is standard; what is said of standard counts first."""
    entries = {
        "azure/hd/1024-x-1792/d": image(0.12),
        "azure/standard/1024-x-1024/d": image(0.04),
        "azure/1024-x-1024/d": image(0.05),
        "512-x-512/d": image(0.01),
        "512-x-512/50-steps/sd": image(0.02),
    }
    prices = listed(**entries)
    sizes = (("hd/1024x1792", 12 * 10**13), ("standard/1024x1024", 4 * 10**13))
    rates = PieceRates(image=12 * 10**13, sizes=sizes)
    assert prices["azure/d"] == ModelPrice(0, 0, 0, 0, pieces=rates)
    rates = PieceRates(image=10**13, sizes=(("standard/512x512", 10**13),))
    assert prices["d"] == ModelPrice(0, 0, 0, 0, pieces=rates)
    assert set(prices) == {*entries, "azure/d", "d"}
