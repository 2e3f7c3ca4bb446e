"""How much a call may use, before it is made: from byte length, never from tokenising.

Sources: a byte-pair token covers at least one byte of text, so the bytes of a body bound its tokens
from above; the longest token of o200k is 128 bytes, and JSON may spend six bytes on one (\\u00e9),
which bounds them from below. Between the two, four bytes a token is what JSON bodies come to, times
what a model's own tokenizer makes of it, times what its calls have taught. Base64 payloads of
images, audio and files are no text and left out; images are billed by formula, the others by rules
that nothing in the body bounds. `docs/estimation.md` tells all of it.
"""

from bisect import insort
from collections import deque

from msgspec import Struct

from gateway.core.dialects.prompt_media import Media
from gateway.core.image_tokens import Image, ImageTokens, image_tokens
from gateway.core.model_text import text_rule

COUNTABLE_BYTES = 8_000_000  # counting more would take seconds
_BYTES_PER_TOKEN = 4
_MOST_BYTES_PER_TOKEN = 768
_UNKNOWN_CEILING = 128_000
_UNKNOWN_CONTEXT = 200_000
_UNLEARNED_OUTPUT = 2_048
_LEAST_USEFUL_OUTPUT = 1_024


class InputEstimate(Struct, frozen=True, gc=False):
    """Input tokens: between `low` and `high`, most likely `expected`.

    `low` equals `high` where counting would tell nothing more. `text` is what is expected of the
    text before anything was learned, 0 if there is more to the input than the body; `images` is
    what is expected of the images.
    """

    low: int
    expected: int
    high: int
    text: int = 0
    images: int = 0


def estimate_input(
    model: str,
    body_bytes: int,
    media: Media,
    context_tokens: int | None,
    *,
    is_open: bool = False,
) -> InputEstimate:
    """Return bounds for the input tokens of a JSON body.

    `is_open` tells that more than the body is billed as input. Such a call, and one with a medium
    that has no formula, may use the model's whole context, and counting its text would not narrow
    that. Nor would it for a model whose tokenizer is not known: there the bytes stay the bound.
    """
    text_bytes = max(1, body_bytes - media.payload_bytes)
    rule = text_rule(model)
    text = rule.scaled(-(-text_bytes // _BYTES_PER_TOKEN))
    images = _images(model, media.images)
    if is_open or media.is_unbounded or images is None:
        bound = max(text_bytes, context_tokens or _UNKNOWN_CONTEXT)
        return InputEstimate(bound, text, bound)
    high = text_bytes + images.most
    is_countable = rule.is_exact and body_bytes <= COUNTABLE_BYTES
    low = text_bytes // _MOST_BYTES_PER_TOKEN if is_countable else high
    return InputEstimate(low, min(text + images.expected, high), high, text, images.expected)


def counted_input(
    estimate: InputEstimate, model: str, media: Media, text_tokens: int | None
) -> InputEstimate:
    """Return the estimate of a body whose text was counted by the encoding of `text_rule`.

    Exact for the text of models whose encoding is known; images at the most that they are billed.
    None for a text that could not be counted: then the upper bound is taken for the lower, too.
    """
    total = estimate.high
    if text_tokens is not None:
        images = _images(model, media.images) or _NO_IMAGES
        total = text_rule(model).scaled(text_tokens) + images.most
    return InputEstimate(total, total, total, estimate.text, estimate.images)


def _images(model: str, images: tuple[Image, ...]) -> ImageTokens | None:
    """Return what all images come to; None if one of them has no formula."""
    if not images:
        return _NO_IMAGES
    each = [image_tokens(model, image) for image in images]
    known = [tokens for tokens in each if tokens is not None]
    if len(known) < len(each):
        return None
    return ImageTokens(
        sum(tokens.expected for tokens in known), sum(tokens.most for tokens in known)
    )


_NO_IMAGES = ImageTokens(0, 0)


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


class LearnedInput:
    """By how much a model's input differs from what its text was expected to come to.

    For each model the ratio of two sums over its calls, reported tokens and expected ones; a call
    weighs 0.9 as much with each that follows, and long calls more than short ones. Known from the
    first call on. Bounded in the number of models; the oldest goes first.
    """

    _KEPT, _LEAST, _MOST, _KEYS = 0.9, 0.125, 8.0, 1_024

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def corrected(self, model: str, estimate: InputEstimate) -> InputEstimate:
        """Return the estimate with what is expected as it was learned; its bounds stay."""
        known = self._sums.get(model)
        if known is None or not estimate.text:
            return estimate
        ratio = min(self._MOST, max(self._LEAST, known[0] / known[1]))
        expected = min(estimate.high, round(estimate.text * ratio) + estimate.images)
        return InputEstimate(estimate.low, expected, estimate.high, estimate.text, estimate.images)

    def learn(self, model: str, estimate: InputEstimate, input_tokens: int) -> None:
        """Remember what a provider reported of a call that was estimated so."""
        reported = input_tokens - estimate.images
        if not estimate.text or reported <= 0:
            return
        known = self._sums.get(model)
        if known is None:
            if len(self._sums) >= self._KEYS:
                del self._sums[next(iter(self._sums))]
            known = 0.0, 0.0
        self._sums[model] = (
            known[0] * self._KEPT + reported,
            known[1] * self._KEPT + estimate.text,
        )


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
