"""Forms: their text fields are read as every parser reads them, or they are refused."""

from collections.abc import Iterable

import pytest

from gateway.core.errors import BadCall
from gateway.core.multipart import LONGEST_TEXT, MOST_PARTS, form_fields, is_form

KIND = b"multipart/form-data; boundary=B"


def part(
    content: bytes, disposition: bytes = b'form-data; name="model"', more: bytes = b""
) -> bytes:
    return b"Content-Disposition: %b\r\n%b\r\n%b" % (disposition, more, content)


def form(parts: Iterable[bytes], boundary: bytes = b"B") -> bytes:
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary, each) for each in parts)
    return body + b"--%b--\r\n" % boundary


FILE = part(b"\x00\r\n\xff--A\r\n" * 3, b'form-data; name="file"; filename="a.mp3"')
MODEL = part(b"whisper-1")


@pytest.mark.parametrize(
    "kind",
    [
        KIND,
        b'Multipart/Form-Data;charset=utf-8; boundary="B"',
        b"multipart/form-data; boundary=B; charset=utf-8",
    ],
)
def test_fields_beside_files(kind: bytes) -> None:
    """Files are counted by their bytes, whatever they hold."""
    stream = part(b"true", b"form-data; name=stream", b"Content-Type: text/plain\r\n")
    fields, file_bytes = form_fields(form([FILE, MODEL, stream]), kind)
    assert fields == {"model": b"whisper-1", "stream": b"true"}
    assert file_bytes == 27


def test_files_and_lists_may_stand_twice() -> None:
    """As several images do; a name in another encoding is a file's all the same."""
    other = part(b"12345", b"form-data; name=\"file\"; filename*=utf-8''%e2%82%ac")
    many = part(b"word", b'form-data; name="include[]"')
    assert form_fields(form([FILE, other, many, many]), KIND) == ({}, 32)


def test_an_empty_form() -> None:
    """Holds nothing."""
    assert form_fields(b"--B--", KIND) == ({}, 0)


ODD_BODIES = {
    "nothing": b"",
    "a preamble": b"\r\n" + form([MODEL]),
    "not ended": form([MODEL]).removesuffix(b"--B--\r\n"),
    "a head without an end": b"--B\r\nContent-Disposition: form-data",
    "an epilogue": form([MODEL]) + b"--B\r\n",
    "LF alone before a boundary": b"--B\r\n" + part(b"a\n--B\r\n" + MODEL) + b"\r\n--B--",
    "a boundary inside a line": form([part(b"some --B in a text")]),
    "padding behind a boundary": form([MODEL]).replace(b"--B\r\n", b"--B \r\n", 1),
    "a longer boundary": form([part(b"x\r\n--Bee\r\n" + MODEL)]),
    "no content": b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\n--B--",
    "twice": form([MODEL, MODEL]),
    "twice in other letters": form([MODEL, part(b"b", b'form-data; name="Model"')]),
    "as text and as a file": form(
        [MODEL, part(b"b", b'form-data; name="model"; filename="a"'), MODEL[:0] + FILE]
    ),
    "no name": form([part(b"a", b"form-data")]),
    "an empty name": form([part(b"a", b'form-data; name=""')]),
    "two names": form([part(b"a", b"form-data; name=a; name=b")]),
    "an encoded name": form([part(b"a", b'form-data; name="mo%64el"')]),
    "a name in another encoding": form([part(b"a", b"form-data; name=a; name*=utf-8''b")]),
    "an escape": form([part(b"a", b'form-data; name="mod\\el"')]),
    "another disposition": form([part(b"a", b'attachment; name="a"')]),
    "no disposition": form([b"Content-Type: text/plain\r\n\r\na"]),
    "two dispositions": form([part(b"a", more=b"content-disposition: form-data; name=b\r\n")]),
    "a folded head": form([part(b"a", more=b" name=b\r\n")]),
    "a space before the colon": form([part(b"a", more=b"Content-Type : text/plain\r\n")]),
    "a lone LF in the head": form([part(b"a", more=b"A: b\nC: d\r\n")]),
    "encoded": form([part(b"YQ==", more=b"Content-Transfer-Encoding: base64\r\n")]),
    "a long field": form([part(b"a" * (LONGEST_TEXT + 1))]),
    "many parts": form([FILE] * (MOST_PARTS + 1)),
}


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
def test_what_parsers_could_read_in_two_ways_is_refused(body: bytes) -> None:
    """A provider must not see another model than we do."""
    with pytest.raises(BadCall, match="form in the request body") as refused:
        form_fields(body, KIND)
    assert refused.value.code == "invalid_body"


@pytest.mark.parametrize(
    "kind",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=B; boundary=C",
        b"multipart/form-data; boundary=" + b"B" * 71,
        b"multipart/mixed; boundary=B",
        b"application/json",
    ],
)
def test_no_single_boundary_is_refused(kind: bytes) -> None:
    """The type must say where parts end."""
    with pytest.raises(BadCall):
        form_fields(form([MODEL]), kind)


def test_what_is_a_form() -> None:
    """By its type, in any letter case."""
    assert is_form(b" Multipart/form-data; boundary=B")
    assert not is_form(b"application/json")
