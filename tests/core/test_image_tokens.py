"""Images by formula: examples from the providers' guides, and what callers measured."""

import pytest

from gateway.core.image_tokens import Image, ImageTokens, image_tokens


def same(tokens: int) -> ImageTokens:
    return ImageTokens(tokens, tokens)


@pytest.mark.parametrize(
    ("model", "image", "tokens"),
    [
        ("gpt-4o", Image(1024, 1024), same(765)),
        ("gpt-4o", Image(2048, 4096, "high"), same(1_105)),
        ("gpt-4o", Image(4096, 8192, "low"), same(85)),
        ("gpt-4o", Image(512, 512), same(255)),
        ("gpt-4o", Image(1, 100_000), same(85 + 4 * 170)),
        ("gpt-4o", Image(), same(1_445)),
        ("openai/gpt-4o-2024-11-20", Image(513, 513), same(765)),
        ("gpt-4o-mini", Image(512, 512), same(8_500)),
        ("chatgpt-4o-latest", Image(detail="low"), same(85)),
        ("gpt-4.1", Image(2049, 513), same(85 + 170 * 8)),
        ("gpt-4.1-mini", Image(4000, 1474), same(2_489)),
        ("gpt-4.1-nano", Image(32, 33), same(5)),
        ("gpt-5", Image(1024, 1024), same(630)),
        ("gpt-5.1", Image(1024, 1024), same(630)),
        ("gpt-5-mini", Image(256, 256), ImageTokens(77, 104)),
        ("gpt-5-nano", Image(), ImageTokens(2_304, 3_779)),
        ("gpt-5.6", Image(4000, 3000), same(14_100)),
        ("gpt-6-astra", Image(32, 32), same(2)),
        ("gpt-6-astra", Image(), None),
        ("gpt-5.4-mini", Image(100, 100), None),
        ("o1", Image(512, 512), same(225)),
        ("o3", Image(512, 512), same(225)),
        ("o4-mini", Image(1024, 1024), ImageTokens(1_762, 2_520)),
        ("claude-sonnet-4-5", Image(200, 200), same(54)),
        ("claude-sonnet-4-5", Image(1, 1), same(1)),
        ("claude-sonnet-4-5", Image(4000, 3000), same(1_600)),
        ("claude-3-haiku-20240307", Image(), same(1_600)),
        ("claude-opus-5", Image(1024, 1024), same(1_369)),
        ("claude-opus-5", Image(8000, 8000), same(4_784)),
        ("claude-opus-5", Image(), same(4_784)),
        ("gemini-3-pro-preview", Image(), ImageTokens(1_100, 2_240)),
        ("gemini-2.5-pro", Image(384, 384), same(258)),
        ("gemini-2.5-pro", Image(960, 540), same(6 * 258)),
        ("gemini-2.5-pro", Image(3072, 3072), same(16 * 258)),
        ("gemini-2.5-pro", Image(), None),
        ("llava", Image(100, 100), None),
        ("", Image(), None),
    ],
)
def test_what_an_image_is_billed(model: str, image: Image, tokens: ImageTokens | None) -> None:
    """By the model's family, its size and the detail that was asked for."""
    assert image_tokens(model, image) == tokens
