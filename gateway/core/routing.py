"""Where a call goes: by its URL, its model's name or its path, and where next if that fails.

1. A URL that names an upstream (`/u/<upstream>/`) is obeyed.
2. Else the first upstream in the order of the file that takes the call's dialect and has a pattern
   that fits the model. `*` stands for any text; letter case does not matter.
3. Else the path's own: `openai`, `anthropic` or `gemini` (`core/identity.py`).

Where a call goes is decided once. If that upstream fails, those of its `fallback` are tried in
order, as far as they take the dialect; their own lists are not followed, so two upstreams may stand
in for each other.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from msgspec import Struct, structs

from gateway.core.configuration import UpstreamSettings
from gateway.core.credentials import (
    NO_KEY,
    auth_header_of,
    credential,
    without_credentials,
    without_query_credentials,
)
from gateway.core.headers import Headers
from gateway.core.identity import Dialect, Route

_MODELS_REMEMBERED = 1_024  # clients choose the names
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OWN_FAMILIES = {"anthropic": "anthropic", "gemini": "gemini"}
_SERVER_ERROR = 500
CONNECT = "connect"
SERVER_ERRORS = "5xx"

FAMILIES = tuple(
    dict.fromkeys(
        dialect.value.partition("_")[0] for dialect in Dialect if dialect is not Dialect.UNMETERED
    )
)
"""Dialects of one maker: the name's first part. Who takes one of them is taken to take all."""

DEFAULT_UPSTREAM_OF = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "ollama": "openai",
}
"""The upstream that a call of a family goes to by its path alone."""


def family_of(dialect: Dialect) -> str:
    """Return the family that a dialect belongs to."""
    return dialect.value.partition("_")[0]


def families_of(settings: UpstreamSettings) -> tuple[str, ...]:
    """Return the families of dialects that an upstream takes.

    Where nobody said: its provider's own, OpenAI's for all others and for a compatible endpoint.
    """
    if settings.dialects:
        return settings.dialects
    if settings.base_url.endswith("/openai"):
        return ("openai",)
    return (_OWN_FAMILIES.get(settings.provider.lower(), "openai"),)


def drops_v1(settings: UpstreamSettings) -> bool:
    """Return whether a call's leading `/v1` is left out: the base URL has a version of its own."""
    if settings.drop_v1 is not None:
        return settings.drop_v1
    return settings.base_url.endswith("/v1beta/openai")


def origin_of(base_url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: who is at the other end, whatever the path."""
    url = urlsplit(base_url)
    return url.scheme, url.hostname or "", url.port or _DEFAULT_PORTS.get(url.scheme, 0)


# Patterns -----------------------------------------------------------------------------------------


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.compile(".*".join(parts), re.IGNORECASE | re.DOTALL)


def fits(pattern: str, model: str) -> bool:
    """Return whether a model's name is one of those that a pattern stands for."""
    return _compiled(pattern).fullmatch(model) is not None


def covers(pattern: str, other: str) -> bool:
    """Return whether a pattern stands for every name that `other` stands for."""
    return fits(pattern, other.replace("*", "\0"))  # what no pattern names is fitted by `*` alone


@lru_cache
def overlap(one: str, other: str) -> bool:
    """Return whether there is a name that both patterns stand for."""
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*":
        return overlap(one[1:], other) or overlap(one, other[1:])
    if other[0] == "*":
        return overlap(other, one)
    return one[0].casefold() == other[0].casefold() and overlap(one[1:], other[1:])


def doubtful_overlaps(
    patterns: Iterable[tuple[str, str]],
) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Yield pairs of (upstream, pattern), in order, where names that the later one stands for go
    to the earlier one.

    A special case in front of a general one is no doubt: it is meant.
    """
    seen: list[tuple[str, str]] = []
    for name, pattern in patterns:
        for before, earlier in seen:
            is_special_case = covers(pattern, earlier) and not covers(earlier, pattern)
            if before != name and overlap(earlier, pattern) and not is_special_case:
                yield (before, earlier), (name, pattern)
        seen.append((name, pattern))


# Fallback -----------------------------------------------------------------------------------------


def passes_over(status: int, fallback_on: Iterable[str]) -> bool:
    """Return whether an answer with this status is passed over for another upstream's."""
    words = tuple(fallback_on)
    return str(status) in words or (status >= _SERVER_ERROR and SERVER_ERRORS in words)


# The table ----------------------------------------------------------------------------------------


class Target(Struct, frozen=True):
    """An upstream as routes see it; `is_plain`: requests go there as they came."""

    name: str
    settings: UpstreamSettings
    families: tuple[str, ...]
    origin: tuple[str, str, int]
    credential: tuple[bytes, bytes] | None
    sends_none: bool
    drops_v1: bool
    is_plain: bool


def _target(name: str, settings: UpstreamSettings) -> Target:
    families = families_of(settings)
    sends_none, drops = settings.api_key == NO_KEY, drops_v1(settings)
    header = settings.auth_header or auth_header_of(settings.provider, families)
    held = credential(header, settings.api_key) if settings.api_key and not sends_none else None
    return Target(
        name=name,
        settings=settings,
        families=families,
        origin=origin_of(settings.base_url),
        credential=held,
        sends_none=sends_none,
        drops_v1=drops,
        is_plain=not (settings.api_key or drops),
    )


class Routing:
    """The upstreams in order, with what is looked up for each call."""

    def __init__(self, upstreams: Mapping[str, UpstreamSettings]) -> None:
        self._targets = {name: _target(name, settings) for name, settings in upstreams.items()}
        self._has_patterns = any(settings.models for settings in upstreams.values())
        self._by_model: dict[tuple[str, str], str] = {}

    def by_model(self, route: Route, model: str) -> Route:
        """Return the route of a call for `model`: this one, unless a pattern says another."""
        if not self._has_patterns or route.is_named:
            return route
        key = family_of(route.dialect), model
        name = self._by_model.get(key)
        if name is None:
            if len(self._by_model) >= _MODELS_REMEMBERED:
                self._by_model.clear()
            name = self._by_model[key] = next(self._fitting(*key), "")
        return self.turned(route, name) if name else route

    def _fitting(self, family: str, model: str) -> Iterator[str]:
        for name, target in self._targets.items():
            if family in target.families and any(
                fits(pattern, model) for pattern in target.settings.models
            ):
                yield name

    def turned(self, route: Route, name: str) -> Route:
        """Return a route to another upstream; the client's credential stays meant for the first."""
        if name == route.upstream:
            return route
        return structs.replace(route, upstream=name, meant=route.meant or route.upstream)

    def fallbacks(self, route: Route) -> tuple[str, ...]:
        """Return the upstreams to try, in order, when the one that a route leads to has failed."""
        target = self._targets.get(route.upstream)
        if target is None or not target.settings.fallback:
            return ()
        family, known = family_of(route.dialect), self._targets
        return tuple(
            name
            for name in target.settings.fallback
            if name in known
            and family in known[name].families
            and (known[name].settings.api_key or self._is_at(known[name], route))
        )

    def fallback_on(self, route: Route) -> tuple[str, ...]:
        """Return what counts as a failure of the upstream that a route leads to."""
        target = self._targets.get(route.upstream)
        return target.settings.fallback_on if target else ()

    def _is_at(self, target: Target, route: Route) -> bool:
        """Return whether the client's credential is for this target's origin."""
        meant = self._targets.get(route.meant or route.upstream)
        return meant is not None and meant.origin == target.origin

    def outgoing(self, route: Route, headers: Headers) -> tuple[bytes, Headers]:
        """Return target and headers as they go to the route's upstream.

        The client's credential goes nowhere but to the origin that it is meant for, and only if the
        gateway holds no key of its own for it.
        """
        upstream = self._targets[route.upstream]
        if upstream.is_plain and not route.meant:
            return route.target, headers
        target = route.target
        if upstream.drops_v1 and target.startswith(b"/v1/"):
            target = target[len(b"/v1") :]
        if upstream.credential is None and not upstream.sends_none and self._is_at(upstream, route):
            return target, headers
        kept = without_credentials(headers)
        if upstream.credential is not None:
            kept.append(upstream.credential)
        return without_query_credentials(target), kept
