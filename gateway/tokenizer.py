"""Exact token counts with tiktoken, offline, in a thread.

Facts (`docs/wire.md`): tiktoken fetches an encoding over the network unless its file is in
TIKTOKEN_CACHE_DIR under the SHA-1 of its URL. The litellm package ships those of o200k and cl100k;
nothing else is ever loaded. A run of a million blanks makes o200k panic, and `encode` refuses texts
with special tokens; so texts go in slices, as ordinary text.
"""

import asyncio
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

_SLICE_CHARS = 50_000
_LONGEST_CHARS = 8_000_000
_CHARS_PER_TOKEN = 4
_FILES = {
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
}
_CL100K_MODELS = ("gpt-4-", "gpt-3.5", "text-embedding-3", "gpt-35")


class TiktokenCounter:
    """ports.Tokenizer. The encoding is loaded when it is first asked for (80 MB, half a second)."""

    async def count(self, model: str, texts: Sequence[str]) -> int:
        """Return the tokens of all texts; ceil(chars / 4) where no encoding can be had."""
        return await asyncio.to_thread(count_tokens, model, tuple(texts))


def count_tokens(model: str, texts: Sequence[str]) -> int:
    """Return the tokens of all texts together. Blocking; never raises, never asks the network."""
    chars = sum(map(len, texts))
    encoding = _encoding(_encoding_name(model)) if chars <= _LONGEST_CHARS else None
    if encoding is None:
        return -(-chars // _CHARS_PER_TOKEN)
    return sum(
        len(encoding.encode_ordinary(text[start : start + _SLICE_CHARS]))
        for text in texts
        for start in range(0, len(text), _SLICE_CHARS)
    )


def _encoding_name(model: str) -> str:
    name = model.rpartition("/")[2]
    return "cl100k_base" if name == "gpt-4" or name.startswith(_CL100K_MODELS) else "o200k_base"


@cache
def _encoding(name: str) -> "tiktoken.Encoding | None":
    """Return an encoding if its file is at hand, else None."""
    folder = _encoding_folder()
    if folder is None or not (folder / _FILES[name]).exists():
        return None
    import tiktoken

    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    return tiktoken.get_encoding(name)


def _encoding_folder() -> Path | None:
    """Return where the litellm package keeps the files, without importing it."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], "litellm_core_utils", "tokenizers")
