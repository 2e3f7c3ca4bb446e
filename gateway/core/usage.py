"""What a call used: one record for every provider, in inclusive buckets.

Inclusive means: cached reads, cache writes are part of `input_total`, reasoning of `output_total`.
"""

from msgspec import Struct
from msgspec.structs import astuple

from gateway.core.budget import TokenWeights
from gateway.core.vocabulary import Vocabulary


class UsageSource(Vocabulary):
    """Where the counts come from."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"
    NONE = "none"


MOST_TOKENS = 10**9  # beyond any call: a larger count is nonsense, and sums stay exact
_MOST_NANO_USD = 10**14  # 100,000 dollars: no call costs that


class Modalities(Struct, frozen=True, gc=False, omit_defaults=True):
    """Tokens of a call that are no text. Each is part of its side's total, `_cached` of both
    its kind's input and the cached reads.
    """

    audio_input: int = 0
    audio_cached: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_cached: int = 0
    image_output: int = 0

    @property
    def is_plausible(self) -> bool:
        """Return whether the counts can be true: none negative or huge."""
        counts: tuple[int, ...] = astuple(self)
        return min(counts) >= 0 and max(counts) <= MOST_TOKENS


def modalities(**counts: int | None) -> Modalities | None:
    """Return counts by the names of `Modalities`; None if all of them are missing or 0."""
    some = {kind: count for kind, count in counts.items() if count}
    return Modalities(**some) if some else None


class Usage(Struct, frozen=True, gc=False, omit_defaults=True):
    """Token counts of one call; all are integers >= 0.

    `cache_write_1h` is the part of `cache_write` that is kept an hour and costs more.
    `web_searches` are billed by the piece. `provider_nano_usd` is what the provider says that the
    call costs, None if it does not say. `seconds` of sound, `characters` to be spoken and
    `images` are billed beside tokens or instead of them. `terms` are the words, one space apart,
    that change the price: `flex` or `priority`, and Claude's `fast` and `us`; "" is standard. Of
    images it is what was asked for, `hd/1024x1792`. `modalities` are the tokens that are no text.
    """

    input_total: int = 0
    cached_read: int = 0
    cache_write: int = 0
    output_total: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    web_searches: int = 0
    provider_nano_usd: int | None = None
    seconds: int = 0
    characters: int = 0
    images: int = 0
    terms: str = ""
    modalities: Modalities | None = None

    @property
    def total(self) -> int:
        """Return all tokens, each counted once."""
        return self.input_total + self.output_total

    @property
    def plain_input(self) -> int:
        """Return the input tokens that were neither read from nor written to a cache."""
        left = self.input_total - self.cached_read - self.cache_write
        return left if left > 0 else 0

    @property
    def is_plausible(self) -> bool:
        """Return whether the counts can be true: none negative or huge, no part above its whole."""
        return (
            min(self.cached_read, self.cache_write, self.cache_write_1h, self.reasoning) >= 0
            and self.cached_read + self.cache_write <= self.input_total <= MOST_TOKENS
            and self.cache_write_1h <= self.cache_write
            and self.reasoning <= self.output_total <= MOST_TOKENS
            and 0 <= self.web_searches <= MOST_TOKENS
            and min(self.seconds, self.characters, self.images) >= 0
            and max(self.seconds, self.characters, self.images) <= MOST_TOKENS
            and 0 <= (self.provider_nano_usd or 0) <= _MOST_NANO_USD
            and (self.modalities is None or self.modalities.is_plausible)
        )

    def budget_tokens(self, weights: TokenWeights) -> int:
        """Return what the call counts against a token budget."""
        return weights.charge(
            self.plain_input, self.cached_read, self.cache_write, self.output_total
        )


NO_USAGE = Usage()
_TIERS = {"flex": "flex", "priority": "priority", "fast": "priority"}


def tier_term(said: object) -> str:
    """Return a `service_tier` as one of `Usage.terms`; "" for any that is billed as standard."""
    return _TIERS.get(said, "") if type(said) is str else ""
