"""Which admin tokens are too weak to begin with."""

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from itertools import product

_LEAST_CHARACTERS = 16
_LEAST_DISTINCT = 8
_LEAST_RUN = 4
_WORDS = (
    *("password", "passwd", "passphrase", "secret", "s3cret", "p@ssw0rd", "passw0rd"),
    *("changeme", "change", "default", "example", "sample", "placeholder", "dummy", "test"),
    *("administrator", "admin", "root", "master", "operator", "viewer", "user", "login"),
    *("token", "apikey", "key", "tollgate", "gateway", "litellm", "proxy", "welcome", "hello"),
    *("letmein", "qwerty", "your", "here", "todo", "none", "null", "xxxx"),
)
_GUESSED_FIRST = re.compile("|".join(sorted(_WORDS, key=len, reverse=True)))
_ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_COLUMNS = "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p"
_RUNS = tuple(row[::step] for row in (*_ROWS, _COLUMNS) for step in (1, -1))
_REPEATED = re.compile(r"(.+?)\1+")
_SEPARATORS = ("", "-", "_", " ", ".")
_ENDINGS = ("", "1", "12", "123", "1234", "12345", "123456", "!", "1!", "123!", "0", "01")


def weakness(token: str) -> str:
    """Return why a token may be guessed, empty if nothing speaks for it.

    Words that people write in place of a secret, and runs along the alphabet or a keyboard, count
    for nothing; what is left of it must look random: 16 letters and digits, 8 of them different,
    which are not a shorter piece again and again.
    """
    if len(token) < _LEAST_CHARACTERS:
        return f"is shorter than {_LEAST_CHARACTERS} characters"
    rest = _without_runs(re.sub("[^a-z0-9]", "", _GUESSED_FIRST.sub("", token.lower())))
    repeated = _REPEATED.fullmatch(rest)
    piece = repeated[1] if repeated else rest
    if len(piece) < _LEAST_CHARACTERS or len(set(piece)) < _LEAST_DISTINCT:
        return "is easily guessed"
    return ""


def digest_weakness(sha256: str) -> str:
    """Return why the token of a digest may be guessed, empty if it is none that comes to mind.

    `sha256` is in hexadecimal. All that can be done is to try: words, two of them, numbers behind.
    """
    return "is that of an easily guessed word" if sha256 in _guessed_digests() else ""


def _without_runs(text: str) -> str:
    """Return a text without its runs of four and more along a row."""
    kept, at = "", 0
    while at < len(text):
        length = _run_at(text, at)
        if length < _LEAST_RUN:
            kept += text[at]
            length = 1
        at += length
    return kept


def _run_at(text: str, at: int) -> int:
    """Return how many characters from a place on follow each other in some row."""
    longest = 0
    for row in _RUNS:
        length = longest + 1
        while at + length <= len(text) and text[at : at + length] in row:
            longest, length = length, length + 1
    return longest


@cache
def _guessed_digests() -> frozenset[str]:
    return frozenset(
        hashlib.sha256(f"{text}{end}".encode()).hexdigest()
        for text in _guesses()
        for end in ("", "\n")  # of `echo`, which ends a line
    )


def _guesses() -> Iterator[str]:
    yield ""
    for word, ending in product((*_WORDS, *_RUNS), _ENDINGS):
        yield from (f"{word}{ending}", f"{word.capitalize()}{ending}")
    for first, separator, second in product(_WORDS, _SEPARATORS, _WORDS):
        yield f"{first}{separator}{second}"
    for separator, word in product(_SEPARATORS, _WORDS):
        yield from (
            f"my{separator}{word}",
            f"sk-{word}",
            f"{word}{separator}{word}{separator}{word}",
        )
    for run in _RUNS:
        yield from (run[:length] for length in range(_LEAST_RUN, len(run)))
