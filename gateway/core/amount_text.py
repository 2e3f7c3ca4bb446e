"""Amounts as people read them."""

from gateway.core.budget import NANO_USD_PER_USD, Dimension

NOUNS = {
    Dimension.TOKENS: "token",
    Dimension.LATENCY_MS: "latency",
    Dimension.NANO_USD: "cost",
    Dimension.CALLS: "call",
}


def format_amount(amount: int, dimension: Dimension) -> str:
    """Return an amount for people: `31,600`, `245s`, `$5.03`."""
    if dimension is Dimension.LATENCY_MS:
        return f"{amount / 1000:,.0f}s"
    if dimension is Dimension.NANO_USD:
        return f"${amount / NANO_USD_PER_USD:,.2f}"
    return f"{amount:,}"
