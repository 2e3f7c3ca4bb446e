"""Where a provider lives: its base URL taken apart, and the request heads that go there."""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from gateway.core.errors import BadCall, InvalidConfigError
from gateway.core.headers import Headers

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})


@dataclass(frozen=True, slots=True)
class Origin:
    """A provider's address; `prefix` stands before every target, `host_header` names the origin.

    `proxy_authorization` goes with every request to a proxy that takes requests in absolute form.
    """

    host: str
    port: int
    tls: bool
    host_header: bytes
    prefix: bytes
    proxy_authorization: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        """Return the host, with its port if that is not the scheme's own."""
        return self.host_header.decode("ascii")


def parse_origin(name: str, base_url: str) -> Origin:
    """Take the base URL of upstream `name` apart. Raises InvalidConfigError with every fault."""
    where = f"upstreams.{name}.base_url"
    try:
        url = urlsplit(base_url)
        port = url.port
    except ValueError as error:
        raise InvalidConfigError([f"{where}: {error}"]) from None
    faults = _faults(url, base_url)
    if faults:
        raise InvalidConfigError([f"{where}: {fault}" for fault in faults])
    host = url.hostname or ""
    default_port = _DEFAULT_PORTS[url.scheme]
    bracketed = f"[{host}]" if ":" in host else host
    return Origin(
        host=host,
        port=port or default_port,
        tls=url.scheme == "https",
        host_header=(
            f"{bracketed}:{port}" if port not in (None, default_port) else bracketed
        ).encode(),
        prefix=url.path.rstrip("/").encode(),
    )


def translator_origin(name: str) -> Origin:
    """Return what requests of upstream `name` are made for on the translator's socket."""
    return Origin(
        host="translator",
        port=0,
        tls=False,
        host_header=b"translator",
        prefix=b"/u/" + name.encode(),
    )


def _faults(url: SplitResult, base_url: str) -> list[str]:
    found = {
        "it must begin with http:// or https://": url.scheme not in _DEFAULT_PORTS,
        "it names no host": not url.hostname,
        "it must not hold a user name or password": "@" in url.netloc,
        "it must not have a query or fragment": bool(url.query or url.fragment),
        "only printable ASCII without spaces may stand in it": not base_url.isascii()
        or not base_url.isprintable()
        or " " in base_url,
    }
    return [fault for fault, is_there in found.items() if is_there]


def request_head(
    origin: Origin, method: bytes, target: bytes, headers: Headers, body_size: int
) -> bytes:
    """Return the head of a request, from its first line to the empty one.

    `headers` go out in their order and letter case; they hold neither `Host` nor framing headers,
    which are made here. Raises BadCall (`invalid_header`) if anything given would end its line.
    """
    lines = [
        b"%b %b%b HTTP/1.1" % (method, origin.prefix, target),
        b"Host: " + origin.host_header,
        *map(b": ".join, headers),
    ]
    if origin.proxy_authorization:
        lines.append(b"Proxy-Authorization: " + origin.proxy_authorization)
    if body_size or method in _WITH_BODY:
        lines.append(b"Content-Length: %d" % body_size)
    line_ends = len(lines) + 1
    lines += (b"", b"")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != line_ends or head.count(b"\r") != line_ends or b"\0" in head:
        raise BadCall("invalid_header", "a header holds a line break or a NUL byte")
    if not target.startswith(b"/") or b" " in target:
        raise BadCall("invalid_header", "the request target is no plain path")
    return head
