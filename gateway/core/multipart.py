"""Text fields of a `multipart/form-data` body, read without touching the files in it.

Stricter than RFC 7578 on purpose: what we read has to be what the provider reads, so whatever two
parsers could read in two ways is refused (a preamble, a lone LF, a delimiter that is not a line of
its own, a field that stands twice). Files are skipped by one search for the next delimiter.
"""

import re
from collections.abc import Iterator

from gateway.core.errors import BadCall

MOST_PARTS = 512
LONGEST_TEXT = 1_048_576  # bytes of one field that is no file
_LONGEST_HEAD = 8_192
_BOUNDARY = re.compile(
    rb"multipart/form-data\s*;(?:[^\"]*;)?\s*boundary=(?:\"([^\"]{1,70})\"|([^\s;\",]{1,70}))\s*(?:;|$)",
    re.IGNORECASE,
)
_DISPOSITION = re.compile(
    rb"form-data((?:;[ \t]*[a-z]+\*?=(?:\"[^\"\\]*\"|[^\s;\",\\]+))*)", re.IGNORECASE
)
_PARAMETER = re.compile(rb";[ \t]*([A-Za-z]+\*?)=(?:\"([^\"]*)\"|([^\s;\"]+))")
_ENCODINGS = frozenset({b"7bit", b"8bit", b"binary"})


def form_fields(body: bytes, content_type: bytes) -> tuple[dict[str, bytes], int]:
    """Return the text fields by name, and how many bytes of the body belong to files.

    Raises BadCall (`invalid_body`) for what is no form, or is not the same form to everybody.
    """
    fields: dict[str, bytes] = {}
    texts: set[str] = set()
    files: set[str] = set()
    file_bytes = 0
    for head, start, end in _parts(body, _boundary_of(content_type)):
        name, is_file = _described(head)
        if is_file:
            file_bytes += end - start
            files.add(name.lower())
            continue
        if end - start > LONGEST_TEXT:
            raise _bad(f"its field {name[:64]!r} is longer than {LONGEST_TEXT:,} bytes")
        if name.endswith("[]"):
            continue
        if name.lower() in texts:
            raise _bad(f"its field {name[:64]!r} stands twice")
        texts.add(name.lower())
        fields[name] = body[start:end]
    if texts & files:
        raise _bad("a field stands there as text and as a file")
    return fields, file_bytes


def is_form(content_type: bytes) -> bool:
    """Return whether a body of this type is a form with parts."""
    return content_type.strip().lower().startswith(b"multipart/form-data")


def _boundary_of(content_type: bytes) -> bytes:
    found = _BOUNDARY.match(content_type.strip())
    if found is None or content_type.lower().count(b"boundary=") != 1:
        raise _bad("its Content-Type must be multipart/form-data with one boundary")
    return b"--" + (found[1] or found[2])


def _parts(body: bytes, mark: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each part's head, and where its content starts and ends."""
    if not body.startswith(mark):
        raise _bad("it must begin with its boundary")
    at = len(mark)
    for _ in range(MOST_PARTS):
        if body.startswith(b"--", at):
            if body[at + 2 :].strip(b"\r\n"):
                raise _bad("something follows its last boundary")
            return
        if not body.startswith(b"\r\n", at):
            raise _bad("a boundary is not a line of its own")
        head_end = body.find(b"\r\n\r\n", at, at + _LONGEST_HEAD)
        following = body.find(mark, at)
        if head_end < 0 or not head_end < following:
            raise _bad("a part has no whole head or is not ended")
        start = head_end + 4
        if following < start + 2 or body[following - 2 : following] != b"\r\n":
            raise _bad("a boundary is not a line of its own")
        yield body[at + 2 : head_end], start, following - 2
        at = following + len(mark)
    raise _bad(f"it has more than {MOST_PARTS} parts")


def _described(head: bytes) -> tuple[str, bool]:
    """Return a part's name, and whether it is a file."""
    said: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        key = name.lower()
        if not colon or key in said or key != key.strip() or b"\n" in line or b"\r" in line:
            raise _bad("a part's head is not clear")
        said[key] = value.strip()
    if said.get(b"content-transfer-encoding", b"binary").lower() not in _ENCODINGS:
        raise _bad("a part is encoded")
    disposition = _DISPOSITION.fullmatch(said.get(b"content-disposition", b""))
    if disposition is None:
        raise _bad("a part does not say its name in a way that all read alike")
    return _named(disposition[1])


def _named(parameters: bytes) -> tuple[str, bool]:
    found = [(key.lower(), a or b) for key, a, b in _PARAMETER.findall(parameters)]
    known = dict(found)
    name = known.get(b"name", b"")
    if len(known) < len(found) or not name or b"%" in name or b"name*" in known:
        raise _bad("a part does not say its name in a way that all read alike")
    return name.decode("utf-8", "replace"), b"filename" in known or b"filename*" in known


def _bad(why: str) -> BadCall:
    return BadCall("invalid_body", f"The form in the request body cannot be read: {why}.")
