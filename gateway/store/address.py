"""Where the store is: `redis://`, `rediss://` and `unix://` URLs."""

import ssl
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.core.errors import InvalidConfigError

_DEFAULT_PORT = 6379


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
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix" and parts.path:
        return StoreAddress(
            path=unquote(parts.path),
            username=username,
            password=password,
            database=_database(query.get("db", "")),
        )
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        return StoreAddress(
            host=parts.hostname,
            port=_port(parts.netloc, parts.scheme) or _DEFAULT_PORT,
            username=username,
            password=password,
            database=_database(parts.path.strip("/") or query.get("db", "")),
            tls=_tls(query.get("ca_file")) if parts.scheme == "rediss" else None,
        )
    raise InvalidConfigError(
        [
            f"redis.url: scheme {parts.scheme!r} with this form is not supported. Remedy: use "
            "redis://host:6379/0, rediss://host:6379/0 or unix:///path/to/socket; leave it empty "
            "for the embedded store. Cluster and Sentinel URLs are not supported yet."
        ]
    )


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise InvalidConfigError(
            [f"redis.url: ca_file cannot be read ({error}). Remedy: name a PEM file."]
        ) from None


def _port(netloc: str, scheme: str) -> int | None:
    try:
        return urlsplit(f"{scheme}://{netloc}").port
    except ValueError as error:
        raise InvalidConfigError([f"redis.url: {error}. Remedy: name a port number."]) from None


def _database(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise InvalidConfigError(
            [f"redis.url: database {text!r} is not a number. Remedy: end the URL in /0."]
        )
    return int(text)
