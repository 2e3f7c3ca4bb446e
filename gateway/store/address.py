"""Where the store is: `redis://`, `rediss://` and `unix://` URLs."""

import ssl
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.core.errors import InvalidConfigError

_DEFAULT_PORT = 6379
_ENCODE = "In a user name or password, write @ : / ? # [ ] % as %40 %3A %2F %3F %23 %5B %5D %25."


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A parsed store URL. `path` is set for a unix socket, `host` otherwise."""

    host: str = ""
    port: int = _DEFAULT_PORT
    path: str = ""
    username: str = ""
    password: str = ""
    database: int = 0
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        """Return the place without credentials: this text reaches logs."""
        place = self.path or f"{self.host}:{self.port}"
        return f"StoreAddress({place}, db {self.database}{', TLS' if self.tls else ''})"


def parse_store_url(url: str) -> StoreAddress:
    """Return the address that `url` names.

    `redis[s]://[user:password@]host[:port][/db][?ca_file=...]` or
    `unix://[user:password@]/path[?db=n]`. Raises InvalidConfigError without repeating the URL,
    which may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORT
    except ValueError:  # its text may quote a password
        raise _bad("host or port cannot be read", f"use redis://host:6379/0. {_ENCODE}") from None
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix" and parts.path and not parts.hostname:
        return StoreAddress(
            path=unquote(parts.path),
            username=username,
            password=password,
            database=_database(query.get("db", "")),
        )
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        return StoreAddress(
            host=parts.hostname,
            port=port,
            username=username,
            password=password,
            database=_database(parts.path.strip("/") or query.get("db", "")),
            tls=_tls(query.get("ca_file")) if parts.scheme == "rediss" else None,
        )
    raise _bad(
        f"scheme {parts.scheme!r} with this form is not supported",
        "use redis://host:6379/0, rediss://host:6379/0 or unix:///path/to/socket; leave it empty "
        "for the embedded store. Cluster and Sentinel URLs are not supported yet.",
    )


def _bad(problem: str, remedy: str) -> InvalidConfigError:
    return InvalidConfigError([f"redis.url: {problem}. Remedy: {remedy}"])


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise _bad(f"ca_file cannot be read ({error})", "name a PEM file.") from None


def _database(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise _bad("the database is not a number", f"end the URL in /0. {_ENCODE}")
    return int(text)
