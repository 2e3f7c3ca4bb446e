"""How much a call may use, before it is made: from byte length, never from tokenising.

Sources: a byte-pair token covers at least one byte of text, so the bytes of a body bound its tokens
from above; the longest token of o200k is 128 bytes, and JSON may spend six bytes on one (\\u00e9),
which bounds them from below. Between the two, four bytes a token is what JSON bodies come to.
Base64 payloads of images, audio and files are not text and are left out; what they are billed, no
body length bounds.
"""

import re
from bisect import insort
from collections import deque

from msgspec import Struct

# Audio comes as `"data": "<base64>"`, without saying so; shorter ones may be words.
_BASE64_PAYLOAD = re.compile(
    rb'base64,[A-Za-z0-9+/=_\\-]*+|"data"\s*:\s*"[A-Za-z0-9+/=_\\-]{256,}+'
)
_BYTES_PER_TOKEN = 4
_MOST_BYTES_PER_TOKEN = 768
_UNKNOWN_CEILING = 128_000
_UNKNOWN_CONTEXT = 200_000
# By type or member, not by the bare word: a tool may well have a parameter called "file".
_UNBOUNDED_PART = re.compile(
    rb'"type"\s*:\s*"(?:image_url|input_image|input_audio|audio_url|video_url|file|input_file'
    rb'|image|document)"'
    rb'|"(?:image|audio|video)_url"\s*:|"(?:inline_?|file_?)[dD]ata"\s*:'
)
_UNLEARNED_OUTPUT = 2_048
_LEAST_USEFUL_OUTPUT = 1_024


class InputEstimate(Struct, frozen=True, gc=False):
    """Input tokens: between `low` and `high`, most likely `expected`. Equal once counted."""

    low: int
    expected: int
    high: int


def estimate_input(
    body: bytes, context_tokens: int | None, *, is_open: bool = False
) -> InputEstimate:
    """Return bounds for the input tokens of a JSON body.

    `is_open` tells that more than the body is billed as input; images, audio and files are billed
    by rules that no body length bounds. Such a call may use the model's whole context, and counting
    its text would not narrow that. Base64 without such a part is text like any other.
    """
    size = max(1, text_bytes(body))
    expected = -(-size // _BYTES_PER_TOKEN)
    if is_open or _UNBOUNDED_PART.search(body):
        bound = max(size, context_tokens or _UNKNOWN_CONTEXT)
        return InputEstimate(bound, expected, bound)
    return InputEstimate(size // _MOST_BYTES_PER_TOKEN, expected, max(1, len(body)))


def exact_input(tokens: int) -> InputEstimate:
    """Return the estimate of a body that was counted."""
    return InputEstimate(tokens, tokens, tokens)


def text_bytes(body: bytes) -> int:
    """Return the length of `body` without its base64 payloads."""
    if b"base64," not in body and b'"data"' not in body:
        return len(body)
    return len(body) - sum(len(match[0]) for match in _BASE64_PAYLOAD.finditer(body))


def output_ceiling(asked: int | None, choices: int, model_ceiling: int | None) -> int:
    """Return the most output tokens the provider may bill for all choices together.

    Less than none is how local servers spell "no limit".
    """
    if asked is None or asked < 0:
        asked = model_ceiling or _UNKNOWN_CEILING
    return asked * max(1, choices)


def least_output(ceiling: int, least_limit: int = 0) -> int:
    """Return the fewest output tokens worth admitting a call for, and that the API takes."""
    return min(ceiling, max(least_limit, _LEAST_USEFUL_OUTPUT))


class LearnedOutput:
    """The 90th percentile of what calls of one (model, phase) really put out.

    The last 256 calls count, after 20 of them; before that 2,048 tokens are expected. Bounded in
    the number of keys; the oldest key goes first.
    """

    _SAMPLES, _ENOUGH, _KEYS = 256, 20, 1_024

    def __init__(self) -> None:
        self._recent: dict[tuple[str, str], tuple[deque[int], list[int]]] = {}

    def expected(self, model: str, phase: str, ceiling: int) -> int:
        """Return min(ceiling, what this model in this phase is expected to put out)."""
        known = self._recent.get((model, phase))
        if known is None or len(known[1]) < self._ENOUGH:
            return min(ceiling, _UNLEARNED_OUTPUT)
        ordered = known[1]
        return min(ceiling, ordered[(len(ordered) * 9 - 1) // 10])

    def learn(self, model: str, phase: str, output_tokens: int) -> None:
        """Remember one finished call."""
        key = (model, phase)
        known = self._recent.get(key)
        if known is None:
            if len(self._recent) >= self._KEYS:
                del self._recent[next(iter(self._recent))]
            known = self._recent[key] = (deque(), [])
        arrival, ordered = known
        if len(arrival) == self._SAMPLES:
            ordered.remove(arrival.popleft())
        arrival.append(output_tokens)
        insort(ordered, output_tokens)
