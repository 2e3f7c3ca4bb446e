"""Base URLs and the request heads made for them."""

import pytest

from gateway.core.errors import BadCall, InvalidConfigError
from gateway.upstream.origin import Origin, parse_origin, request_head


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://api.acme.test", Origin("api.acme.test", 443, True, b"api.acme.test", b"")),
        ("http://api.acme.test/", Origin("api.acme.test", 80, False, b"api.acme.test", b"")),
        (
            "https://api.acme.test:443/a/b/",
            Origin("api.acme.test", 443, True, b"api.acme.test", b"/a/b"),
        ),
        ("http://h:8080/x", Origin("h", 8080, False, b"h:8080", b"/x")),
        ("https://[::1]:9/x", Origin("::1", 9, True, b"[::1]:9", b"/x")),
        ("https://[2001:db8::1]", Origin("2001:db8::1", 443, True, b"[2001:db8::1]", b"")),
    ],
)
def test_a_base_url_is_taken_apart(url: str, origin: Origin) -> None:
    assert parse_origin("acme", url) == origin


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("api.acme.test", "must begin with"),
        ("ftp://api.acme.test", "must begin with"),
        ("https://", "names no host"),
        ("https://me:secret@h", "user name"),
        ("https://h/?x=1", "query"),
        ("https://h/#x", "query or fragment"),
        ("https://h/a b", "ASCII"),
        ("https://h\u00e4/", "ASCII"),
        ("https://h:99999/", "Port out of range"),
        ("https://[::1/", "Invalid IPv6"),
    ],
)
def test_a_base_url_that_is_of_no_use_is_refused(url: str, fault: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"upstreams.acme.base_url: .*{fault}"):
        parse_origin("acme", url)


def test_all_faults_are_named_together() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_origin("acme", "ftp://?x")
    assert len(caught.value.faults) == 3


ORIGIN = parse_origin("acme", "https://h:8443/base")


def test_a_head_keeps_target_and_headers_as_given() -> None:
    headers = [(b"x-B", b"1"), (b"X-a", b"\xff"), (b"x-B", b"")]
    assert request_head(ORIGIN, b"POST", b"/v1/a%2Fb?x=%7e", headers, 12) == (
        b"POST /base/v1/a%2Fb?x=%7e HTTP/1.1\r\nHost: h:8443\r\n"
        b"x-B: 1\r\nX-a: \xff\r\nx-B: \r\nContent-Length: 12\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "size", "stated"),
    [
        (b"POST", 0, True),
        (b"PUT", 0, True),
        (b"PATCH", 0, True),
        (b"GET", 0, False),
        (b"DELETE", 0, False),
        (b"DELETE", 3, True),
        (b"GET", 3, True),
    ],
)
def test_length_is_stated_where_there_may_be_a_body(method: bytes, size: int, stated: bool) -> None:
    head = request_head(ORIGIN, method, b"/", [], size)
    assert (f"\r\nContent-Length: {size}\r\n\r\n".encode() in head) == stated
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("place", ["name", "value", "target", "method"])
@pytest.mark.parametrize("evil", [b"\r", b"\n", b"\r\n", b"\0", b"\r\nX: y", b"a\r\n\r\nGET /"])
def test_nothing_can_end_its_line(place: str, evil: bytes) -> None:
    name, value, target, method = b"X", b"y", b"/", b"GET"
    match place:
        case "name":
            name += evil
        case "value":
            value += evil
        case "target":
            target += evil
        case _:
            method += evil
    with pytest.raises(BadCall) as caught:
        request_head(ORIGIN, method, target, [(name, value), (b"Z", b"z")], 0)
    assert caught.value.code == "invalid_header"


@pytest.mark.parametrize("target", [b"", b"http://evil.test/", b"*", b"/a b", b"/ HTTP/1.1"])
def test_the_target_is_a_plain_path(target: bytes) -> None:
    with pytest.raises(BadCall, match="target"):
        request_head(ORIGIN, b"GET", target, [], 0)
