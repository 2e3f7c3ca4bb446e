"""Exact counts, offline; what cannot be counted is said to be, and nothing fails."""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import token_count
from gateway.core.identity import Dialect
from gateway.token_count import count_question, count_tokens, serve
from gateway.tokenizer import Question


@pytest.fixture(autouse=True, scope="module")
def _fresh() -> Iterator[None]:
    """Forget what was loaded, before and after; the oracle finds the same files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(token_count._encoding_folder()))
        token_count._encoding.cache_clear()
        yield
        token_count._encoding.cache_clear()


def test_it_counts_what_the_model_counts() -> None:
    """Each by its own encoding."""
    text = "Hello, naïve world 😀"
    newer, older = (tiktoken.get_encoding(name) for name in ("o200k_base", "cl100k_base"))
    assert count_tokens("gpt-4o-mini", [text]) == len(newer.encode(text))
    assert count_tokens("gpt-oss-20b", [text]) == len(newer.encode(text))
    assert count_tokens("gpt-4", [text]) == len(older.encode(text))
    assert count_tokens("azure/gpt-4-turbo", [text]) == len(older.encode(text))
    assert count_tokens("somebody/else", [text, text]) == 2 * len(newer.encode(text))
    assert count_tokens("gpt-4o", []) == 0


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.text(st.characters(), max_size=200), st.sampled_from([1, 1, 5_000]))
@example("<|endoftext|><|fim_prefix|>", 1)
@example(" ", 1_000_000)
@example("\N{IDEOGRAPHIC SPACE}\t", 500_000)
@example("\ud800", 1_000)
@example("\x00", 100_000)
def test_no_text_makes_it_fail(text: str, times: int) -> None:
    """Special tokens are text, long runs of blanks are sliced, half a pair counts as something."""
    found = count_tokens("gpt-4o", [text * times])
    assert found is not None
    assert (found > 0) is bool(text)


def test_very_long_texts_are_not_counted() -> None:
    """Counting them would take seconds."""
    assert count_tokens("gpt-4o", ["x" * 8_000_001]) is None
    assert count_tokens("gpt-4o", ["hello world " * 600_000]) == 1_200_192


class Panic(BaseException):
    """What an encoder written in Rust raises; no Exception."""


def test_a_panic_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a BaseException; who wants to end the process still can."""

    class Encoder:
        def encode_ordinary(self, text: str) -> list[int]:
            raise KeyboardInterrupt if text == "stop" else Panic

    monkeypatch.setattr(token_count, "_encoding", lambda _: Encoder())
    assert count_tokens("gpt-4o", ["x"]) is None
    assert count_question(Question("gpt-4o", Dialect.OPENAI_CHAT, b"{}")) == 3
    assert count_question(Question("gpt-4o", Dialect.OPENAI_CHAT, b"no JSON")) is None
    with pytest.raises(KeyboardInterrupt):
        count_tokens("gpt-4o", ["stop"])


def test_without_the_files_nothing_is_counted_and_nobody_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No connection is opened for an encoding that is not at hand."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for folder in (None, tmp_path):
        token_count._encoding.cache_clear()
        monkeypatch.setattr(token_count, "_encoding_folder", lambda folder=folder: folder)
        assert count_tokens("gpt-4o", ["hello world!"]) is None
    token_count._encoding.cache_clear()


def test_there_is_no_folder_without_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are all that there is."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert token_count._encoding_folder() is None


def test_a_request_is_counted_with_its_frame() -> None:
    """As its dialect counts it; a text on its own is only a text."""
    body = b'{"messages":[{"role":"user","content":"hello world"}]}'
    assert count_question(Question("gpt-4o", Dialect.OPENAI_CHAT, body)) == 3 + 3 + 4
    assert count_question(Question("gpt-4o", None, b"hello world")) == 2
    assert count_question(Question("gpt-4o", None, b"\xff")) is not None
    assert count_question(Question("gpt-4o", Dialect.UNMETERED, body)) is None


def test_it_serves_until_nobody_asks() -> None:
    """For a while, or ever again; half a question is none."""
    (questions, asking), (answered, answers) = os.pipe(), os.pipe()
    serve(questions, answers, 0.0)
    os.write(asking, b"\0\0\0\x09half")
    os.close(asking)
    serve(questions, answers, 30.0)
    os.close(answers)
    assert os.read(answered, 1) == b""
    os.close(questions)
    os.close(answered)


def test_the_process_loads_no_more_than_it_needs() -> None:
    """Neither litellm nor anything of the network, and tiktoken only to count."""
    script = (
        "import sys, gateway.token_count as t; print('tiktoken' in sys.modules);"
        "print(t.count_tokens('gpt-4o', ['hello world']));"
        "print([name for name in ('litellm', 'requests', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:3] == ["False", "2", "[]"]


def test_a_worker_loads_no_tokenizer() -> None:
    """Nor litellm, nor a database, nor the admin plane: they cost 80 MB and more."""
    script = (
        "import sys, gateway.app;"
        "heavy = ('litellm', 'tiktoken', 'aiohttp', 'sqlalchemy', 'pydantic', 'redis', 'numpy');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
