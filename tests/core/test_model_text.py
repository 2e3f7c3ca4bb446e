"""How models turn text into tokens: by name, with and without a provider's prefix."""

import pytest
import tiktoken

from gateway.core.model_text import CL100K, O200K, TextRule, text_rule


@pytest.mark.parametrize(
    "model",
    ["gpt-5", "gpt-5.1-codex", "gpt-4.1-mini", "gpt-4o", "chatgpt-4o-latest", "o1", "o3-mini",
     "o4-mini", "gpt-4.5-preview", "gpt-3.5-turbo", "gpt-4", "gpt-4-turbo",
     "text-embedding-3-small", "gpt-oss-120b"],
)  # fmt: skip
def test_it_agrees_with_tiktokens_own_table(model: str) -> None:
    """Those are the models whose tokens can be counted exactly."""
    name = tiktoken.encoding_name_for_model(model)
    rule = TextRule(name.replace("o200k_harmony", O200K), is_exact=True)
    assert text_rule(model) == rule
    assert text_rule(f"azure/{model.upper()}") == rule
    assert text_rule(f"ft:{model}:acme::x") == rule


@pytest.mark.parametrize("model", ["gpt-6-astra", "codex-mini-latest", "", "llama-4", "gemini-3"])
def test_an_unknown_model_is_counted_as_o200k_and_not_exactly(model: str) -> None:
    """No count bounds what it will bill."""
    assert text_rule(model) == TextRule(O200K)


@pytest.mark.parametrize(
    ("model", "ratio"),
    [
        ("claude-3-5-sonnet-20241022", 1_300),
        ("claude-sonnet-4-20250514", 1_300),
        ("claude-opus-4-6", 1_300),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", 1_300),
        ("anthropic/claude-3.7-sonnet", 1_300),
        ("claude-2.1", 1_300),
        ("claude-opus-4-7", 1_800),
        ("claude-opus-5", 1_800),
        ("claude-sonnet-5-20260901", 1_800),
        ("claude-fable", 1_800),
    ],
)
def test_claude(model: str, ratio: int) -> None:
    """The newer tokenizer makes more of a text; an unknown version has the newer."""
    assert text_rule(model) == TextRule(O200K, ratio)


def test_a_count_is_scaled_and_rounded_up() -> None:
    """1.3 tokens of a Claude's for one of o200k."""
    assert TextRule(O200K, 1_300).scaled(11) == 15
    assert TextRule(CL100K).scaled(11) == 11
