"""What is wrong, or doubtful, with upstreams that are right alone: names, credentials, patterns."""

from collections.abc import Iterator, Mapping

from gateway.core.configuration import UpstreamSettings
from gateway.core.credentials import NO_KEY
from gateway.core.routing import (
    DEFAULT_UPSTREAM_OF,
    doubtful_overlaps,
    families_of,
    origin_of,
)
from gateway.findings import suggestion
from gateway.settings.api_keys import read_key_file
from gateway.settings.sections import UpstreamSection

Upstreams = Mapping[str, UpstreamSection]
Remark = tuple[str, str, str]  # key, problem, remedy

_TRANSLATED_FAMILIES = ("openai", "anthropic")
_SIGNED = "bedrock"
_NEEDS_KEY = "give it api_key, api_key_file, or api_key: none if it takes calls without one"


def routing_conflicts(upstreams: Upstreams) -> Iterator[Remark]:
    """Yield (key, problem, remedy) for what cannot be meant, or would give a credential away."""
    for name, section in upstreams.items():
        if section.api_key and section.api_key_file:
            yield (
                f"upstreams.{name}.api_key_file",
                "is given beside api_key",
                "leave out one of the two; api_key may come from the environment",
            )
        yield from _faults_of_models(name, section, upstreams)
        for target in section.fallback:
            yield from _faults_of_fallback(name, section, target, upstreams)


def _faults_of_models(
    name: str, section: UpstreamSection, upstreams: Upstreams
) -> Iterator[Remark]:
    """A pattern must not lead a client's credential to somebody that it is not for."""
    if not section.models or _has_key(section):
        return
    for family in _families(section):
        default = DEFAULT_UPSTREAM_OF[family]
        meant = upstreams.get(default)
        if meant is not None and not _same_origin(section, meant):
            yield (
                f"upstreams.{name}.models",
                f"would take calls away from {default}, whose credential {name} must not see",
                f"{_NEEDS_KEY}; or leave out models and call it as /u/{name}/",
            )
            return


def _faults_of_fallback(
    name: str, section: UpstreamSection, target: str, upstreams: Upstreams
) -> Iterator[Remark]:
    key, other = f"upstreams.{name}.fallback", upstreams.get(target)
    if other is None:
        known = [each for each in upstreams if each != name]
        yield key, f"there is no upstream {target!r}", suggestion(target, known)
    elif target == name:
        yield key, "names the upstream itself", "name another one"
    elif not set(_families(section)) & set(_families(other)):
        yield (
            key,
            f"{target} takes no dialect that {name} takes",
            f"name one that does, or set upstreams.{target}.dialects",
        )
    elif not (_has_key(other) or _same_origin(section, other)):
        yield (
            f"upstreams.{target}.api_key",
            f"is needed: {target} stands in for {name}, whose credential it must not see",
            _NEEDS_KEY,
        )


def routing_doubts(upstreams: Upstreams) -> Iterator[Remark]:
    """Yield (key, problem, remedy) for what is allowed but seldom meant."""
    patterns = (
        (name, pattern) for name, section in upstreams.items() for pattern in section.models
    )
    for (first, earlier), (second, later) in doubtful_overlaps(patterns):
        if set(_families(upstreams[first])) & set(_families(upstreams[second])):
            yield (
                f"upstreams.{second}.models",
                f"{later} overlaps with {earlier} of {first}, which comes first and takes both",
                "put the special pattern in front of the general one, or narrow one of them",
            )


def dialects_of(section: UpstreamSection) -> tuple[str, ...]:
    """Return the families of dialects that an upstream is said to take, none if nothing is."""
    return section.dialects or (_TRANSLATED_FAMILIES if section.translate else ())


def held_key(section: UpstreamSection) -> str:
    """Return the key that the gateway holds for an upstream; `none` where it needs nobody's.

    Bedrock's calls are signed by the translator.
    """
    if section.api_key_file:
        return read_key_file(section.api_key_file)
    return section.api_key or (NO_KEY if section.translate == _SIGNED else "")


def _has_key(section: UpstreamSection) -> bool:
    return bool(section.api_key or section.api_key_file or section.translate == _SIGNED)


def _families(section: UpstreamSection) -> tuple[str, ...]:
    return families_of(
        UpstreamSettings(section.base_url, section.provider, dialects=dialects_of(section))
    )


def _same_origin(one: UpstreamSection, other: UpstreamSection) -> bool:
    return origin_of(one.base_url) == origin_of(other.base_url)
