"""What an image is billed, by formula: a table by model family.

Sources: OpenAI's and Anthropic's guides to vision, Google's to media resolution, and what callers
measured where guides and bills differ; `docs/estimation.md` names them. Where those disagree, or
the size is not known, `most` is the larger. A model without a formula gets None: then nothing
bounds the image but the context.
"""

from collections.abc import Callable

from msgspec import Struct

from gateway.core.model_text import bare_name, is_older_claude

_TILE_PX = 512
_PATCH_PX = 32
_MOST_PATCHES = 1_536
_CLAUDE_PATCH_PX = 28
_GEMINI_TILE_TOKENS = 258
_GEMINI_SMALL_PX = 384


class Image(Struct, frozen=True, gc=False):
    """An image in a prompt. Pixels are 0 where they are not known; `detail` is "" if not said."""

    width: int = 0
    height: int = 0
    detail: str = ""


class ImageTokens(Struct, frozen=True, gc=False):
    """Input tokens: most likely `expected`, never above `most`."""

    expected: int
    most: int


_Rule = Callable[[Image], ImageTokens | None]


def image_tokens(model: str, image: Image) -> ImageTokens | None:
    """Return what an image is billed; None if no formula says."""
    name = bare_name(model)
    if "claude" in name:
        return _claude(image, older=is_older_claude(name))
    for prefix, rule in _RULES:
        if name.startswith(prefix):
            return rule(image)
    return None


def _tiles(base: int, per_tile: int) -> _Rule:
    """OpenAI's tiles: fitted into 2,048 square, then the short side to 768, in squares of 512."""

    def rule(image: Image) -> ImageTokens:
        if image.detail == "low":
            return ImageTokens(base, base)
        tiles = _tiles_of(image.width, image.height) if image.width else 8
        tokens = base + per_tile * tiles
        return ImageTokens(tokens, tokens)

    return rule


def _tiles_of(width: int, height: int) -> int:
    long, short = max(width, height), min(width, height)
    # Fractions of a pixel are kept: rounding up may see a tile too many, never one too few.
    scale = min(1.0, 2_048 / long)
    scale = min(scale, 768 / short)
    return _covering(long * scale, _TILE_PX) * _covering(short * scale, _TILE_PX)


def _covering(length: float, piece: int) -> int:
    return max(1, int(-(-length // piece)))


def _patches(least_per_mille: int, most_per_mille: int, cap: int | None = _MOST_PATCHES) -> _Rule:
    """OpenAI's patches of 32 pixels, times a factor that guides and bills put differently."""

    def rule(image: Image) -> ImageTokens | None:
        if not image.width and cap is None:
            return None
        patches = _covering(image.width, _PATCH_PX) * _covering(image.height, _PATCH_PX)
        if cap is not None:
            patches = min(cap, patches) if image.width else cap
        return ImageTokens(
            -(-patches * least_per_mille // 1000), -(-patches * most_per_mille // 1000)
        )

    return rule


def _claude(image: Image, *, older: bool) -> ImageTokens:
    """Pixels / 750 up to 1,600 (4.6 and before); patches of 28 pixels up to 4,784 (newer)."""
    cap = 1_600 if older else 4_784
    if not image.width:
        return ImageTokens(cap, cap)
    area = -(-image.width * image.height // 750)
    patches = _covering(image.width, _CLAUDE_PATCH_PX) * _covering(image.height, _CLAUDE_PATCH_PX)
    tokens = min(cap, max(1, area) if older else patches)
    return ImageTokens(tokens, tokens)


def _gemini_3(image: Image) -> ImageTokens:
    """About 1,100 whatever the size, 2,240 at the highest resolution that may be asked for."""
    return ImageTokens(1_100, 2_240)


def _gemini_2(image: Image) -> ImageTokens | None:
    """258 for a small one, else 258 a tile; a tile is short side / 1.5, within 256 and 768."""
    if not image.width:
        return None
    if max(image.width, image.height) <= _GEMINI_SMALL_PX:
        return ImageTokens(_GEMINI_TILE_TOKENS, _GEMINI_TILE_TOKENS)
    tile = min(768, max(256, min(image.width, image.height) * 2 // 3))
    tiles = _covering(image.width, tile) * _covering(image.height, tile)
    return ImageTokens(_GEMINI_TILE_TOKENS * tiles, _GEMINI_TILE_TOKENS * tiles)


# The first prefix that fits counts. Not here, so without a bound: gpt-5.2 to 5.5, whose bills no
# formula explains.
_RULES: tuple[tuple[str, _Rule | Callable[[Image], None]], ...] = (
    ("gpt-4o-mini", _tiles(2_833, 5_667)),
    ("gpt-4o", _tiles(85, 170)),
    ("chatgpt-4o", _tiles(85, 170)),
    ("gpt-4.1-mini", _patches(1_620, 1_620)),
    ("gpt-4.1-nano", _patches(2_460, 2_460)),
    ("gpt-4.1", _tiles(85, 170)),
    ("gpt-5-mini", _patches(1_200, 1_620)),
    ("gpt-5-nano", _patches(1_500, 2_460)),
    ("gpt-5.6", _patches(1_200, 1_200, None)),
    ("gpt-5.1", _tiles(70, 140)),
    ("gpt-5.", lambda image: None),
    ("gpt-5", _tiles(70, 140)),
    ("gpt-6", _patches(1_200, 1_200, None)),
    ("o1", _tiles(75, 150)),
    ("o3", _tiles(75, 150)),
    ("o4-mini", _patches(1_720, 2_460)),
    ("gemini-3", _gemini_3),
    ("gemini-2", _gemini_2),
)
