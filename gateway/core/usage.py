"""What a call used: one record for every provider, in inclusive buckets.

Inclusive means: cached reads, cache writes are part of `input_total`, reasoning of `output_total`.
"""

from msgspec import Struct

from gateway.core.budget import TokenWeights
from gateway.core.vocabulary import Vocabulary


class UsageSource(Vocabulary):
    """Where the counts come from."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"
    NONE = "none"


class Usage(Struct, frozen=True, gc=False):
    """Token counts of one call; all are integers >= 0."""

    input_total: int = 0
    cached_read: int = 0
    cache_write: int = 0
    output_total: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """Return all tokens, each counted once."""
        return self.input_total + self.output_total

    @property
    def plain_input(self) -> int:
        """Return the input tokens that were neither read from nor written to a cache."""
        left = self.input_total - self.cached_read - self.cache_write
        return left if left > 0 else 0

    def budget_tokens(self, weights: TokenWeights) -> int:
        """Return what the call counts against a token budget."""
        return weights.charge(
            self.plain_input, self.cached_read, self.cache_write, self.output_total
        )


NO_USAGE = Usage()
