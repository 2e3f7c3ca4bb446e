"""Exact token counts with tiktoken, offline: the process that a worker asks.

Run as `python -m gateway.token_count [IDLE_S]`: questions on stdin, answers on stdout, as
`tokenizer.py` frames them. It ends when stdin does, or after ten minutes without a question. A
process and not a thread: loading an encoding holds the interpreter's lock for a quarter of a second
and 80 MB for good (`docs/performance.md`).

Facts: tiktoken fetches an encoding over the network unless its file is in TIKTOKEN_CACHE_DIR under
the SHA-1 of its URL. The litellm package ships those of o200k and cl100k; nothing else is ever
loaded, and nothing is asked of the network. A run of a million blanks makes o200k panic, and
`encode` refuses texts with special tokens; so texts go in slices, as ordinary text.
"""

import importlib.util
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway.core.dialects.table import WIRE_FORMATS
from gateway.core.estimate import COUNTABLE_BYTES
from gateway.core.model_text import text_rule
from gateway.tokenizer import ANSWER_BYTES, LENGTH_BYTES, UNCOUNTED, Question

if TYPE_CHECKING:
    import tiktoken

_SLICE_CHARS = 50_000
_IDLE_S = 600.0
_FILES = {
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
}

_decode = msgspec.msgpack.Decoder(Question).decode


def count_tokens(model: str, texts: Sequence[str]) -> int | None:
    """Return the tokens of all texts by the model's encoding; None where they cannot be counted.

    Blocking; never raises, never asks the network. A slice's end may cost a token (0.007 %).
    """
    if sum(map(len, texts)) > COUNTABLE_BYTES:
        return None
    try:
        encoding = _encoding(text_rule(model).encoding)
        if encoding is None:
            return None
        return sum(
            len(encoding.encode_ordinary(text[start : start + _SLICE_CHARS]))
            for text in texts
            for start in range(0, len(text), _SLICE_CHARS)
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of the encoder is no Exception
        return None


def count_question(question: Question) -> int | None:
    """Return the tokens that are asked for. Never raises."""
    if question.dialect is None:
        return count_tokens(question.model, [question.body.decode("utf-8", "replace")])
    wire = WIRE_FORMATS.get(question.dialect)
    if wire is None:
        return None
    text, overhead = wire.countable_text(question.body)
    tokens = count_tokens(question.model, [text])
    return None if tokens is None else tokens + overhead


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


def serve(questions: int, answers: int, idle_s: float) -> None:
    """Answer the questions of one file descriptor on another, until none comes for a while."""
    with suppress(EOFError):
        while select.select([questions], [], [], idle_s)[0]:
            length = int.from_bytes(_read(questions, LENGTH_BYTES), "big")
            tokens = count_question(_decode(_read(questions, length)))
            answer = UNCOUNTED if tokens is None else tokens
            os.write(answers, answer.to_bytes(ANSWER_BYTES, "big", signed=True))


def _read(source: int, length: int) -> bytearray:
    """Return exactly `length` bytes. Raises EOFError where there are fewer."""
    found = bytearray()
    while len(found) < length:
        piece = os.read(source, length - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def main() -> None:
    """Serve the worker that started this: it alone says when to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    idle_s = float(sys.argv[1]) if len(sys.argv) > 1 else _IDLE_S
    serve(sys.stdin.fileno(), sys.stdout.fileno(), idle_s)


if __name__ == "__main__":
    main()
