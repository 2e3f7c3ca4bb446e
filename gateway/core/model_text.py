"""How a model turns text into tokens, by its name: encoding, starting ratio, and what is exact.

A table, first match wins; names come with a provider's prefix (`azure/`, `us.anthropic.`) or
without. Sources: tiktoken's own table of models; the ratios to o200k are measured (Claude) or 1
until calls have told (`LearnedInput`). `docs/estimation.md` has them with their origins.
"""

import re

from msgspec import Struct

O200K, CL100K = "o200k_base", "cl100k_base"
_PER_MILLE = 1_000
# The last tokenizer but one served up to 4.6; a name without a number is taken for the newest.
_CLAUDE_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_LAST_OF_OLDER_CLAUDES = 4, 6
_CL100K_MODELS = ("gpt-4", "gpt-3.5", "gpt-35", "text-embedding-3", "text-embedding-ada-002")
# gpt-oss has o200k_harmony: o200k with other special tokens, and text has none.
_O200K_MODELS = (
    "gpt-5",
    "gpt-4.1",
    "gpt-4.5",
    "gpt-4o",
    "chatgpt-4o",
    "gpt-oss",
    "o1",
    "o3",
    "o4-mini",
)


class TextRule(Struct, frozen=True, gc=False):
    """`encoding` counts a text; times `ratio_per_mille` / 1000 that is what the model is billed.

    `is_exact`: the encoding is the model's own, so that a count is what will be billed.
    """

    encoding: str
    ratio_per_mille: int = _PER_MILLE
    is_exact: bool = False

    def scaled(self, tokens: int) -> int:
        """Return a count by the encoding as a count of the model's, rounded up."""
        return -(-tokens * self.ratio_per_mille // _PER_MILLE)


_EXACT_O200K = TextRule(O200K, is_exact=True)
_EXACT_CL100K = TextRule(CL100K, is_exact=True)
_OLDER_CLAUDE = TextRule(O200K, 1_300)
_NEWER_CLAUDE = TextRule(O200K, 1_800)
_OTHER = TextRule(O200K)


def text_rule(model: str) -> TextRule:
    """Return a model's rule; one that is not known is counted as o200k, and not exactly."""
    name = bare_name(model)
    if name.startswith(_O200K_MODELS):
        return _EXACT_O200K
    if name.startswith(_CL100K_MODELS):
        return _EXACT_CL100K
    if "claude" in name:
        return _OLDER_CLAUDE if is_older_claude(name) else _NEWER_CLAUDE
    return _OTHER


def bare_name(model: str) -> str:
    """Return a model's name in lower case without a provider's prefix or the mark of tuning."""
    return model.rpartition("/")[2].lower().removeprefix("ft:")


def is_older_claude(name: str) -> bool:
    """Return whether a Claude is of version 4.6 or before."""
    found = _CLAUDE_VERSION.search(name)
    return found is not None and (int(found[1]), int(found[2] or 0)) <= _LAST_OF_OLDER_CLAUDES
