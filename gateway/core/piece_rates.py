"""Rates of what is no text: seconds, characters, images; audio and image tokens.

A piece is charged only where no token rate answers for the same thing. Seconds of a recording are
input: no more to pay where input tokens were billed. Characters that are spoken and images that
are made are output: no more to pay where output tokens were billed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.core.usage import Modalities, Usage

_PIXELS = 1_024 * 1_024  # where the request states no size
_SIZE = re.compile(r"(\d{2,5})x(\d{2,5})$")


@dataclass(frozen=True, slots=True)
class PieceRates:
    """Nano-dollars per million seconds, characters, images, pixels or tokens; None: not stated.

    `sizes` are the rates of images by the word for quality and size in `Usage.terms`, such as
    `hd/1024x1792`. Tokens whose rate is not stated cost what text tokens cost.
    """

    second: int | None = None
    character: int | None = None
    image: int | None = None
    pixel: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    audio_input: int | None = None
    audio_cached: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_cached: int | None = None
    image_output: int | None = None

    @property
    def has_pieces(self) -> bool:
        """Return whether anything but tokens has a rate."""
        rates = (self.second, self.character, self.image, self.pixel)
        return bool(self.sizes) or any(rate is not None for rate in rates)

    def micro_nano_usd(self, usage: Usage, *, has_input: bool, has_output: bool) -> int:
        """Return what pieces cost, in millionths of a nano-dollar.

        `has_input`, `has_output`: tokens of that side are billed already.
        """
        micro = 0
        if usage.seconds and not has_input:
            micro += usage.seconds * (self.second or 0)
        if usage.characters and not has_output:
            micro += usage.characters * (self.character or 0)
        if usage.images and not has_output:
            micro += usage.images * self._image_rate(usage.terms)
        return micro

    def _image_rate(self, terms: str) -> int:
        """Return the rate of an image: by its size if that is listed, else any image's."""
        sized = dict(self.sizes).get(terms)
        if sized is not None:
            return sized
        if self.image is not None or self.pixel is None:
            return self.image or 0
        size = _SIZE.search(terms)
        return self.pixel * (int(size[1]) * int(size[2]) if size else _PIXELS)

    def token_extra(self, usage: Usage, tokens: Modalities, text: tuple[int, int, int]) -> int:
        """Return what tokens that are no text cost beyond text tokens; negative where less.

        `text` are the rates of plain input, cached reads and output. Tokens that were read from a
        cache and not told apart are taken for text: a token is never billed twice.
        """
        plain, cached, output = text
        left = usage.plain_input
        audio = min(max(tokens.audio_input - tokens.audio_cached, 0), left)
        image = min(max(tokens.image_input - tokens.image_cached, 0), left - audio)
        read_audio = min(tokens.audio_cached, usage.cached_read)
        read_image = min(tokens.image_cached, usage.cached_read - read_audio)
        made_audio = min(tokens.audio_output, usage.output_total)
        made_image = min(tokens.image_output, usage.output_total - made_audio)
        return _sum_of(
            (
                (audio, self.audio_input, plain),
                (image, self.image_input, plain),
                (read_audio, self.audio_cached, cached),
                (read_image, self.image_cached, cached),
                (made_audio, self.audio_output, output),
                (made_image, self.image_output, output),
            )
        )

    @property
    def worst_input(self) -> int:
        """Return the dearest rate of an input token that is no text."""
        return max(self.audio_input or 0, self.image_input or 0)

    @property
    def worst_output(self) -> int:
        """Return the dearest rate of an output token that is no text."""
        return max(self.audio_output or 0, self.image_output or 0)


def _sum_of(parts: Iterable[tuple[int, int | None, int]]) -> int:
    return sum(count * (rate - text) for count, rate, text in parts if rate is not None)
