"""Units and moments in answers."""

from decimal import Decimal

import pytest

from gateway.admin.views import amount_text, dimension_name, iso, iso_or_none, plain, usd
from gateway.core.budget import Dimension


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (100_000_000, "0.1"),
        (1_000_000_000, "1"),
        (100_000_000_000, "100"),
        (9_007_199_254_740_991, "9007199.254740991"),
    ],
)
def test_dollars_are_exact(nano_usd: int, text: str) -> None:
    """Up to the largest amount that the store counts."""
    assert usd(nano_usd) == text
    assert Decimal(text) * 10**9 == nano_usd


@pytest.mark.parametrize(
    ("number", "text"), [("1.20", "1.2"), ("100", "100"), ("1E+2", "100"), ("1E-7", "0.0000001")]
)
def test_decimals_have_no_exponent(number: str, text: str) -> None:
    assert plain(Decimal(number)) == text


def test_moments() -> None:
    """Milliseconds are neither lost nor rounded away."""
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(1_793_611_800_123) == "2026-11-02T09:30:00.123Z"
    assert all(iso(1_793_611_800_000 + ms).endswith(f".{ms:03}Z") for ms in range(1000))
    assert iso_or_none(None) is None


def test_amounts_in_messages() -> None:
    texts = [f"{dimension_name(d)}: {amount_text(1_234_567, d)}" for d in Dimension]
    assert texts == [
        "tokens: 1,234,567 tokens",
        "latency_ms: 1,234,567 ms",
        "cost_usd: $0.001234567",
        "calls: 1,234,567 calls",
    ]
