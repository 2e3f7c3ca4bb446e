"""Whether a request's head can be trusted to say what the request is, and where its body ends.

Source: RFC 9112 sections 3.2 and 6.3, RFC 9110 sections 7.8 and 10.1.1. A proxy must not pass on
what others may read otherwise; what the parser lets through is refused here.
"""

import re

from gateway.core.headers import Headers

_TUNNELS = frozenset({b"CONNECT", b"TRACE", b"PRI"})
_IGNORED_UPGRADES = (b"h2c", b"h2", b"tls/", b"http/")
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,64}\])(?::[0-9]{0,5})?")
_LONGEST_LENGTH = 19  # digits


def framing_problem(version: str, headers: Headers) -> str:
    """Return why a head cannot be trusted to say where its body ends; empty if it can."""
    hosts, lengths, codings = [], [], []
    for name, value in headers:
        lower = name.lower()
        if lower == b"host":
            hosts.append(value)
        elif lower == b"content-length":
            lengths.append(value)
        elif lower == b"transfer-encoding":
            codings.append(value)
    if version not in ("1.1", "1.0"):
        return f"HTTP/{version} is not supported."
    if len(hosts) > 1 or (not hosts and version != "1.0"):
        return "Exactly one Host header is required."
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "Host must be a name or an address, with a port or without."
    return _length_problem(version, lengths, codings)


def _length_problem(version: str, lengths: list[bytes], codings: list[bytes]) -> str:
    if len(lengths) + len(codings) > 1:
        return "The body's length is stated more than once."
    if lengths and not (lengths[0].isdigit() and len(lengths[0]) <= _LONGEST_LENGTH):
        return "Content-Length must be a number."
    if codings and (version == "1.0" or codings[0].lower() != b"chunked"):
        return "Transfer-Encoding must be exactly chunked, and HTTP/1.1."
    return ""


def method_problem(method: bytes) -> str:
    """Return why a method is not carried; empty if it is. What it does is the provider's matter."""
    if method in _TUNNELS:
        return f"The method {method.decode()} is not supported here."
    return ""


def upgrade_problem(headers: Headers) -> str:
    """Return why an upgrade that was asked for ends the request; empty if it can be ignored.

    Clients that offer HTTP/2 in clear text take an answer in HTTP/1.1; a WebSocket client does not.
    """
    for name, value in headers:
        if name.lower() != b"upgrade":
            continue
        for protocol in value.lower().split(b","):
            if not protocol.strip().startswith(_IGNORED_UPGRADES):
                return "Protocol upgrades are not supported here."
    return ""


def head_without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """Return the head of a request whose upgrade is ignored, to be parsed once more without it."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    lines += [b"%b: %b" % header for header in headers if header[0].lower() != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"
