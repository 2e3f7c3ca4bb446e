"""Exact counts, offline; a count that cannot be had is an estimate, never a failure."""

import importlib.util
from collections.abc import Iterator

import pytest
import tiktoken

from gateway import tokenizer
from gateway.tokenizer import TiktokenCounter, count_tokens


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what was loaded, before and after; the oracle finds the same files."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tokenizer._encoding_folder()))
    tokenizer._encoding.cache_clear()
    yield
    tokenizer._encoding.cache_clear()


def test_it_counts_what_the_model_counts() -> None:
    """Each by its own encoding."""
    text = "Hello, naïve world 😀"
    newer, older = (tiktoken.get_encoding(name) for name in ("o200k_base", "cl100k_base"))
    assert count_tokens("gpt-4o-mini", [text]) == len(newer.encode(text))
    assert count_tokens("gpt-4", [text]) == len(older.encode(text))
    assert count_tokens("azure/gpt-4-turbo", [text]) == len(older.encode(text))
    assert count_tokens("somebody/else", [text, text]) == 2 * len(newer.encode(text))
    assert count_tokens("gpt-4o", []) == 0


def test_special_tokens_are_text() -> None:
    """A prompt that speaks of them must not fail."""
    assert count_tokens("gpt-4o", ["<|endoftext|>"]) > 1


def test_long_runs_are_sliced() -> None:
    """A million blanks make the encoder panic if it gets them at once."""
    assert 0 < count_tokens("gpt-4o", [" " * 1_000_000]) < 1_000_000


def test_very_long_texts_are_estimated() -> None:
    """Counting them would take seconds."""
    assert count_tokens("gpt-4o", ["x" * 8_000_001]) == 2_000_001


def test_without_the_files_it_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never asks the network for them."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert count_tokens("gpt-4o", ["hello world!"]) == 3
    assert count_tokens("gpt-4o", ["a", "b"]) == 1


async def test_it_counts_in_a_thread() -> None:
    """So that nobody waits for it."""
    assert await TiktokenCounter().count("gpt-4o", ["hello world"]) == 2
