"""Token counts of requests, and words that are one token each."""

import functools
import importlib.util
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tiktoken

_TALE = """
the gateway reads each call once and keeps a small record of tokens cost time while bytes pass
through every agent works on one task in phases plan build test review merge watch budget limit
line shows where work should stop before money runs out
"""
# Each of these, with the space before it, is one token of o200k_base.
WORDS = tuple(f" {word}" for word in _TALE.split())

_O200K_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"  # tiktoken's name: SHA-1 of the file's URL
_PER_MESSAGE = 3
_PER_NAME = 1
_PRIMING = 3
_PER_IMAGE = 85
_SLICE_CHARS = 100_000  # tiktoken panics on a run of a million spaces


@functools.cache
def o200k() -> tiktoken.Encoding | None:
    """The o200k_base encoding from litellm's files, None where they are not installed.

    Never goes to the network: without the file, tiktoken would, and without a timeout.
    """
    spec = importlib.util.find_spec("litellm")
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in (Path(name, "litellm_core_utils", "tokenizers") for name in folders):
        if (folder / _O200K_FILE).is_file():
            return _load(folder)
    return None


def _load(folder: Path) -> tiktoken.Encoding:
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        return tiktoken.get_encoding("o200k_base")
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


@functools.lru_cache(maxsize=2048)
def count_text(text: str) -> int:
    """Tokens of a text; a quarter of its characters where the encoding is not installed."""
    encoding = o200k()
    if encoding is None:
        return math.ceil(len(text) / 4)
    slices = (text[start : start + _SLICE_CHARS] for start in range(0, len(text), _SLICE_CHARS))
    return sum(len(encoding.encode_ordinary(part)) for part in slices)


def count_chat(messages: Sequence[Mapping[str, Any]], tools: Any = None) -> int:
    """Prompt tokens of a chat request by the rule that OpenAI publishes, plus the tools' JSON."""
    tokens = _PRIMING + (_count_json(tools) if tools else 0)
    for message in messages:
        tokens += _PER_MESSAGE + (_PER_NAME if "name" in message else 0)
        tokens += sum(_count_value(value) for value in message.values())
    return tokens


def count_input(value: Any) -> int:
    """Prompt tokens of an embedding's input: a text, texts, token ids, or lists of those."""
    if isinstance(value, list):
        return sum(1 if isinstance(item, int) else count_input(item) for item in value)
    return count_text(value) if isinstance(value, str) else 0


def _count_value(value: Any) -> int:
    if isinstance(value, str):
        return count_text(value)
    if isinstance(value, list):
        return sum(_count_part(part) for part in value)
    return 0 if value is None else _count_json(value)


def _count_part(part: Any) -> int:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return count_text(str(part.get("text", "")))
    return _PER_IMAGE if kind == "image_url" else _count_json(part)


def _count_json(value: Any) -> int:
    return count_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
