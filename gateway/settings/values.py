"""The values that settings may have: types with their checks, each failing with a remedy."""

import json
import re
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from gateway.core.credentials import AUTH_HEADERS
from gateway.core.disconnect import Disconnect
from gateway.core.headers import KEY_HEADERS
from gateway.core.policy import Mode
from gateway.core.routing import CONNECT, FAMILIES, SERVER_ERRORS
from gateway.findings import rule, suggestion
from gateway.settings.api_keys import checked_key, read_key_file

DAY_MS = 86_400_000
_ORIGIN = re.compile(r"(?i)https?://[a-z0-9._-]+(?::[0-9]{1,5})?/?")
_LONGEST_PATTERN = 128  # characters
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CREDENTIALS = frozenset(name.decode() for name in KEY_HEADERS)
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
UPSTREAM_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ERROR_STATUS = re.compile("[45][0-9]{2}")


def _switch(value: object) -> object:
    """Return a boolean for YAML 1.1's words: an operator in a hurry writes `off` or `no`."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words.get(value.strip().lower(), value) if isinstance(value, str) else value


def _mode(value: object) -> object:
    """Return the mode that a word names; a boolean False is what YAML 1.1 makes of `off`."""
    word = "off" if value is False else value
    known = {mode.value: mode for mode in Mode}
    if isinstance(word, str):
        if word.strip().lower() not in known:
            raise rule(f"{word!r} is not a mode", suggestion(word, known))
        return known[word.strip().lower()]
    return word


def _disconnect(value: object) -> object:
    known = {word.value: word for word in Disconnect}
    if isinstance(value, str):
        if value.strip().lower() not in known:
            remedy = "write cancel or drain, or leave the key out to do as the provider bills"
            raise rule(f"{value!r} is neither cancel nor drain", remedy)
        return known[value.strip().lower()]
    return value


def _path(value: object) -> object:
    if value == "":
        raise rule("is empty", "name a path, or leave the key out for its default")
    return Path(value) if isinstance(value, str) else value


def _base_url(value: str) -> str:
    """Return an origin plus optional path, without its trailing slash."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid, parts = False, urlsplit("")
    if not valid or value != value.strip():
        raise rule("is not an http(s) origin", "write it like https://api.example.com")
    if parts.username is not None or parts.password is not None:
        raise rule("holds credentials", "send them in the calls' headers instead")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise rule("has a query or fragment", "give the origin and, if needed, a path")
    return value.rstrip("/")


def _tenant(value: str) -> str:
    if not _TENANT.fullmatch(value):
        remedy = "use up to 63 lower-case letters, digits and hyphens, a letter or digit first"
        raise rule(f"{value!r} cannot name a tenant", remedy)
    return value


def _collector(value: str) -> str:
    return _base_url(value) if value else ""


def _header_list(value: str) -> str:
    """Return text like `name=value,name=value`, as OpenTelemetry writes headers."""
    for part in filter(None, value.split(",")):
        name, equals, text = part.strip().partition("=")
        if not (equals and _HEADER_NAME.fullmatch(name) and text.isprintable() and text.isascii()):
            raise rule("is no list of headers", "write it like name=value,name=value")
    return value


def _pem_file(value: str) -> str:
    if value and not Path(value).is_file():
        raise rule(f"{value} is no file", "name a PEM file, or leave the key empty")
    return value


def _proxy(value: str) -> str:
    word = value.strip().lower()
    if word in ("env", "none"):
        return word
    try:
        parts = urlsplit(value)
        valid = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or value != value.strip():
        raise rule("is no HTTP proxy", "write env, none, or http://host:port")
    return value


def _store_url(value: str) -> str:
    if value and not value.startswith(("redis://", "rediss://", "unix://")):
        raise rule("has an unknown scheme", "use redis://, rediss:// or unix://, or leave it empty")
    return value


def _ledger_url(value: str) -> str:
    if value and not value.startswith(("postgresql://", "sqlite:///")):
        raise rule(
            "is not a database's URL", "write postgresql://..., sqlite:///..., or leave it empty"
        )
    return value


def _words(value: object) -> object:
    """Return words for one, or for several with commas or as JSON: so a variable has them."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise rule("is no JSON list", "write words with commas between them") from None
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    if isinstance(value, list | tuple):
        return tuple(
            str(word) if isinstance(word, int) and not isinstance(word, bool) else word
            for word in value
        )
    return value


def _names(value: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(word.lower() for word in value)
    for name in names:
        if not UPSTREAM_NAME.fullmatch(name):
            raise rule(f"{name!r} cannot be an upstream's name", "name keys of upstreams")
    if len(set(names)) < len(names):
        raise rule("names an upstream twice", "name each once, in the order to try them")
    return names


def _header_names(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _CREDENTIALS:
            raise rule(f"{name!r} cannot carry a session's id", "name other headers, or none")
    return tuple(name.lower() for name in value)


def _patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in value:
        if not pattern or len(pattern) > _LONGEST_PATTERN or pattern != pattern.strip():
            raise rule(
                f"{pattern[:_LONGEST_PATTERN]!r} is no pattern of model names",
                "write a name, with * for any text, like claude-*",
            )
    return value


def _families(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for word in value or ():
        if word not in FAMILIES:
            raise rule(f"{word!r} is no family of dialects", suggestion(word, FAMILIES))
    return value


def _auth_header(value: object) -> object:
    if isinstance(value, str):
        if value.lower() not in AUTH_HEADERS:
            raise rule(f"{value!r} holds no provider's key", suggestion(value, AUTH_HEADERS))
        return value.lower()
    return value


def _failures(value: tuple[str, ...]) -> tuple[str, ...]:
    for word in value:
        if word not in (CONNECT, SERVER_ERRORS) and not _ERROR_STATUS.fullmatch(word):
            raise rule(
                f"{word!r} is no failure", f"write {CONNECT}, {SERVER_ERRORS}, or a status like 429"
            )
    return value


def _key_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _key_file(value: str) -> str:
    if value:
        read_key_file(value)
    return value


def _origins(value: str) -> str:
    """Return origins, comma-separated: what a browser says of the page that asks."""
    for origin in filter(None, map(str.strip, value.split(","))):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            remedy = "write https://host or https://host:port, several with commas, or * for any"
            raise rule(f"{origin!r} is no origin", remedy)
    return value


def _mapping(value: object) -> object:
    """Return a mapping, for a variable from its JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise rule("is not JSON", 'write it like {"ada": {"role": "viewer", ...}}') from None


Value = TypeVar("Value")

Switch = Annotated[bool, BeforeValidator(_switch)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Place = Annotated[Path, BeforeValidator(_path)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Milliseconds = Annotated[int, Field(gt=0, le=DAY_MS)]
Bytes = Annotated[int, Field(ge=1_024, le=1 << 32)]
Host = Annotated[str, Field(min_length=1)]
ByName = Annotated[dict[str, Value], NoDecode, BeforeValidator(_mapping)]
PolicyMode = Annotated[Mode, BeforeValidator(_mode)]

Tenant = Annotated[str, AfterValidator(_tenant)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
CollectorUrl = Annotated[str, AfterValidator(_collector)]
StoreUrl = Annotated[str, AfterValidator(_store_url)]
LedgerUrl = Annotated[str, AfterValidator(_ledger_url)]
Proxy = Annotated[str, AfterValidator(_proxy)]
PemFile = Annotated[str, AfterValidator(_pem_file)]
Origins = Annotated[str, AfterValidator(_origins)]
HeaderList = Annotated[str, AfterValidator(_header_list)]
HeaderNames = Annotated[Words, AfterValidator(_header_names)]

DisconnectWord = Annotated[Disconnect, BeforeValidator(_disconnect)]
AuthHeader = Annotated[str, BeforeValidator(_auth_header)]
ApiKey = Annotated[str, BeforeValidator(_key_text), AfterValidator(checked_key)]
KeyFile = Annotated[str, AfterValidator(_key_file)]
UpstreamNames = Annotated[Words, AfterValidator(_names)]
ModelPatterns = Annotated[Words, AfterValidator(_patterns)]
Families = Annotated[
    tuple[str, ...] | None, NoDecode, BeforeValidator(_words), AfterValidator(_families)
]
Failures = Annotated[Words, AfterValidator(_failures)]
