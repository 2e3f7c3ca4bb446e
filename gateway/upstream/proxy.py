"""Proxies on the way to a provider: which one the environment asks for, and how to speak to it.

HTTP proxies: CONNECT for https origins, the absolute form for http ones. No I/O here.
"""

import ipaddress
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from gateway.core.errors import InvalidConfigError
from gateway.upstream.addresses import literal

MAX_ANSWER_BYTES = 16_384
_DEFAULT_PORTS = {"http": 80, "https": 443}
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of Proxy-Authorization, empty for none."""

    host: str
    port: int
    authorization: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        """Return its address, without credentials."""
        return f"{_bracketed(self.host)}:{self.port}"


def parse_proxy(where: str, url: str) -> Proxy:
    """Take a proxy's URL apart; `http://` may be left out. Raises InvalidConfigError on `where`.

    No fault repeats the URL: it may hold a password.
    """
    faults: list[str] = []
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise InvalidConfigError([f"{where}: is not a URL"]) from None
    if parts.scheme != "http":
        faults.append(
            f"{where}: {parts.scheme}:// proxies are not supported. "
            "Remedy: name an HTTP proxy, http://host:port"
        )
    if not parts.hostname or port == 0 or not (url.isascii() and url.isprintable()) or " " in url:
        faults.append(f"{where}: names no host. Remedy: write it like http://host:port")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        faults.append(f"{where}: has a path. Remedy: write it like http://host:port")
    if faults:
        raise InvalidConfigError(faults)
    authorization = b""
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        authorization = b"Basic " + b64encode(f"{user}:{password}".encode())
    return Proxy(parts.hostname or "", port or _DEFAULT_PORTS["http"], authorization)


def environment_proxy(environ: Mapping[str, str], base_url: str) -> str:
    """Return the URL of the proxy that the environment wants for `base_url`; empty for none.

    `https_proxy` or `http_proxy` by the origin's scheme, unless `no_proxy` names its host; names
    in lower case go before those in capitals. A loopback host is never reached through a proxy.
    Raises InvalidConfigError for a proxy that cannot be used.
    """
    url = urlsplit(base_url)
    host = (url.hostname or "").rstrip(".")
    port = url.port or _DEFAULT_PORTS.get(url.scheme, 0)
    name, proxy = _first(environ, f"{url.scheme}_proxy")
    _, exempt = _first(environ, "no_proxy")
    if not proxy or _is_loopback(host) or is_exempt(exempt, host, port):
        return ""
    parse_proxy(name, proxy)
    return proxy


def _first(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    for candidate in (name, name.upper()):
        if value := environ.get(candidate, "").strip():
            return candidate, value
    return name, ""


def _is_loopback(host: str) -> bool:
    address = literal(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_exempt(no_proxy: str, host: str, port: int) -> bool:
    """Return whether `no_proxy` names `host`.

    Its entries, with commas or spaces in between: `*`; a host, which stands for those below it
    too; `.suffix` or `*.suffix` for those below only; an address; a network, 10.0.0.0/8. Each but
    a network may have a port. Names are compared, not resolved.
    """
    return any(
        _names(entry, host.lower(), port) for entry in no_proxy.lower().replace(",", " ").split()
    )


def _names(entry: str, host: str, port: int) -> bool:
    address = literal(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, entry_port = _split_port(entry)
    if entry_port not in ("", str(port)):
        return False
    if address is not None:
        return name == "*" or literal(name) == address
    return _names_host(name, host)


def _names_host(name: str, host: str) -> bool:
    if name == "*":
        return True
    suffix = name.removeprefix("*").rstrip(".")
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix.removeprefix('.')}"))


def _split_port(entry: str) -> tuple[str, str]:
    """Return name and port of `host`, `host:port`, `::1`, `[::1]` or `[::1]:port`."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def connect_request(host: str, port: int, authorization: bytes) -> bytes:
    """Return what asks a proxy for a tunnel to `host`."""
    authority = f"{_bracketed(host)}:{port}".encode()
    lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: " + authority]
    if authorization:
        lines.append(b"Proxy-Authorization: " + authorization)
    return b"\r\n".join((*lines, b"", b""))


def connect_answer(data: bytes) -> str | None:
    """Return what is wrong with a proxy's answer, "" if the tunnel is there, None if more is due.

    Nothing may come behind its head: the provider does not speak before it is spoken to.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None if len(data) <= MAX_ANSWER_BYTES else "its answer has no end"
    status = _STATUS.match(head + b"\r\n")
    if status is None:
        return "its answer is not HTTP/1.1"
    if not status[1].startswith(b"2"):
        return f"it answered {status[1].decode()}"
    return "it sent more than its answer" if rest else ""
