"""The usage record: inclusive buckets, and what they count against a token budget."""

import pytest

from gateway.core.budget import EQUAL_WEIGHTS, TokenWeights
from gateway.core.usage import NO_USAGE, Modalities, Usage, UsageSource


def test_no_usage_is_all_zero() -> None:
    """Nothing used counts nothing."""
    assert Usage(0, 0, 0, 0, 0) == NO_USAGE
    assert NO_USAGE.budget_tokens(EQUAL_WEIGHTS) == 0


@pytest.mark.parametrize(
    ("usage", "plain"),
    [
        (Usage(input_total=100), 100),
        (Usage(input_total=100, cached_read=60, cache_write=30), 10),
        (Usage(input_total=100, cached_read=60, cache_write=40), 0),
        (Usage(input_total=100, cached_read=101), 0),
    ],
)
def test_plain_input(usage: Usage, plain: int) -> None:
    """What was neither read from nor written to a cache; never less than nothing."""
    assert usage.plain_input == plain


def test_each_token_counts_once() -> None:
    """Cached and reasoning tokens are subsets: with equal weights the sum is input + output."""
    usage = Usage(
        input_total=1_000, cached_read=600, cache_write=300, output_total=50, reasoning=40
    )
    assert usage.total == 1_050
    assert usage.budget_tokens(EQUAL_WEIGHTS) == 1_050


def test_weights_apply_to_disjoint_counts_and_round_up() -> None:
    """Thousandths of a token, summed and rounded up once."""
    usage = Usage(input_total=10, cached_read=3, cache_write=2, output_total=1)
    weights = TokenWeights(input=1000, cached_read=100, cache_write=1250, output=5000)
    assert usage.budget_tokens(weights) == 13  # 5 + 0.3 + 2.5 + 5 = 12.8


def test_sources() -> None:
    """The words of the ledger and the metrics."""
    assert [source.value for source in UsageSource] == ["provider", "estimated", "none"]


@pytest.mark.parametrize(
    ("usage", "plausible"),
    [
        (Usage(), True),
        (Usage(9, 4, 5, 7, 7, cache_write_1h=5, web_searches=3, provider_nano_usd=10), True),
        (Usage(-1), False),
        (Usage(9, -1), False),
        (Usage(9, modalities=Modalities(audio_input=9)), True),
        (Usage(9, modalities=Modalities(audio_input=-1)), False),
        (Usage(9, modalities=Modalities(image_output=10**9 + 1)), False),
        (Usage(9, 0, -1), False),
        (Usage(9, 5, 5), False),
        (Usage(9, 0, 5, cache_write_1h=6), False),
        (Usage(9, output_total=-1), False),
        (Usage(9, output_total=5, reasoning=6), False),
        (Usage(9, output_total=5, reasoning=-1), False),
        (Usage(10**9 + 1), False),
        (Usage(9, output_total=10**9 + 1), False),
        (Usage(web_searches=-1), False),
        (Usage(provider_nano_usd=-1), False),
        (Usage(provider_nano_usd=10**15), False),
    ],
)
def test_what_can_be_true(usage: Usage, plausible: bool) -> None:
    """No negative or huge count, no part above its whole."""
    assert usage.is_plausible is plausible
