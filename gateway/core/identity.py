"""Step 1, identify: for which task, phase and tiers a call is made, and by what route.

Sources of a tag, the first that has it wins: URL prefix, header, W3C baggage; behind them come the
session's binding and the key's default (`core/keys.py`). Names and tiers are
case-insensitive; task ids are not. An id is validated before it is part of any key, path or label.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from gateway.core.errors import BadCall
from gateway.core.headers import RULES, Headers, baggage_members
from gateway.core.phases import (
    Complexity,
    ImportanceTier,
    WorkPhase,
    allowed_terms,
    parse_term,
)
from gateway.core.sessions import Session
from gateway.core.vocabulary import Vocabulary

MOST_ID = 128  # characters
ID_PATTERN = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_ID - 1}}}")
UNKNOWN = "UNKNOWN"


class Dialect(Vocabulary):
    """The wire format of a call. UNMETERED is relayed as it is and recorded as such."""

    OPENAI_CHAT = "openai_chat"
    OPENAI_RESPONSES = "openai_responses"
    OPENAI_COMPLETIONS = "openai_completions"
    OPENAI_EMBEDDINGS = "openai_embeddings"
    OPENAI_IMAGES = "openai_images"
    OPENAI_AUDIO = "openai_audio"
    OPENAI_SPEECH = "openai_speech"
    OPENAI_REALTIME = "openai_realtime"
    ANTHROPIC_MESSAGES = "anthropic_messages"
    GEMINI = "gemini"
    GEMINI_STREAM = "gemini_stream"
    OLLAMA = "ollama"
    OLLAMA_EMBED = "ollama_embed"
    UNMETERED = "unmetered"


class ErrorShape(Vocabulary):
    """In whose format the gateway words its own answers."""

    OPENAI_ANTHROPIC = "openai_anthropic"
    GEMINI = "gemini"


class Route(Struct, frozen=True):
    """Where a call goes: the upstream's name, the target as received behind our prefixes.

    `is_named` tells that the URL named the upstream (`/u/<upstream>/`). `meant` is the upstream
    that the client's credential is for, empty if that is this one.
    """

    upstream: str
    target: bytes
    dialect: Dialect
    error_shape: ErrorShape
    is_named: bool = False
    meant: str = ""


@dataclass(frozen=True, slots=True)
class InvalidTag:
    """A tag that says nothing we know: the header it came in, its text, what is allowed."""

    source: str
    text: str
    allowed: str

    @property
    def message(self) -> str:
        """Return what the client reads when tags are enforced."""
        return f"{self.source}: {self.text[:128]!r} is not valid; allowed: {self.allowed}"


class Tags(Struct, frozen=True):
    """What a call says about its task. None stands for "not said" or not understood.

    `session` is the one whose binding was looked up because the call named no task.
    """

    task: str | None = None
    phase: WorkPhase | None = None
    complexity: Complexity | None = None
    importance: ImportanceTier | None = None
    parent: str | None = None
    grace: bool = False
    invalid: tuple[InvalidTag, ...] = ()
    session: Session | None = None


_RawTags = dict[str, tuple[str, str]]
"""Texts by tag with where each came from; the first source keeps the place."""


class _Place(Struct, frozen=True):
    """What a request target says: the route of calls with and without `anthropic-version`."""

    tags: tuple[tuple[str, str, str], ...]  # tag, text, source
    route: Route
    anthropic: Route


_HEADERS_READ = {
    b"baggage": ("baggage", ""),
    b"anthropic-version": ("anthropic-version", ""),
    b"x-task-id": ("task", "X-Task-Id"),
    b"x-task-phase": ("phase", "X-Task-Phase"),
    b"x-phase": ("phase", "X-Phase"),
    b"x-task-complexity": ("complexity", "X-Task-Complexity"),
    b"x-task-importance": ("importance", "X-Task-Importance"),
    b"x-task-parent": ("parent", "X-Task-Parent"),
    b"x-task-grace": ("grace", "X-Task-Grace"),
}
_BAGGAGE_TAGS = {
    "task.id": "task",
    "task.phase": "phase",
    "task.complexity": "complexity",
    "task.importance": "importance",
}
_VOCABULARIES: dict[str, Any] = {
    "phase": WorkPhase,
    "complexity": Complexity,
    "importance": ImportanceTier,
}
_NO_TAGS = Tags()
_TAGS = ("task", "phase", "complexity", "importance", "parent", "grace")
# A path's last part says what is called, whatever stands before it: Azure names deployments there,
# Vertex projects. Of two that fit the first counts. `/threads/<id>/messages` calls no model.
_DIALECTS = (
    (b"/chat/completions/", Dialect.OPENAI_CHAT),
    (b"/completions/", Dialect.OPENAI_COMPLETIONS),
    (b"/embeddings/", Dialect.OPENAI_EMBEDDINGS),
    (b"/responses/", Dialect.OPENAI_RESPONSES),
    (b"/responses/compact/", Dialect.OPENAI_RESPONSES),
    (b"/images/generations/", Dialect.OPENAI_IMAGES),
    (b"/images/edits/", Dialect.OPENAI_IMAGES),
    (b"/images/variations/", Dialect.OPENAI_IMAGES),
    (b"/audio/transcriptions/", Dialect.OPENAI_AUDIO),
    (b"/audio/translations/", Dialect.OPENAI_AUDIO),
    (b"/audio/speech/", Dialect.OPENAI_SPEECH),
    (b"/api/chat/", Dialect.OLLAMA),
    (b"/api/generate/", Dialect.OLLAMA),
    (b"/api/embed/", Dialect.OLLAMA_EMBED),
    (b"/v1/messages/", Dialect.ANTHROPIC_MESSAGES),
    (b":generatecontent/", Dialect.GEMINI),
    (b":streamgeneratecontent/", Dialect.GEMINI_STREAM),
)
# Google's verbs behind a model's name: its SDK calls them under /v1 too.
_GEMINI_VERB = re.compile(
    rb":(?:(?:stream|batch)?generatecontent|counttokens|(?:async)?(?:batch)?embedcontents?"
    rb"|predict(?:longrunning)?)/$"
)
_TARGETS_REMEMBERED = 1_024
_LONGEST_REMEMBERED = 512  # bytes
_NEVER_IN_TARGET = re.compile(rb"[\x00-\x20\x7f#]")
_NEVER_IN_PATH = re.compile(rb"[\x00-\x1f\x7f\\]|//")  # once decoded
_ENCODED_SLASH = re.compile(rb"%(?:2f|5c)", re.IGNORECASE)
_PATH_PARAMETERS = re.compile(rb";[^/]*")
# Some servers take the method from the query: a request that reads would call a model.
_METHOD_PARAMETERS = frozenset(
    {
        b"_method",
        b"_httpmethod",
        b"$httpmethod",
        b"httpmethod",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
    }
)
_BETWEEN_PARAMETERS = re.compile(rb"[&;]")
_DEPLOYMENT = re.compile(rb"/(?:deployments|engines)/([^/]+)", re.IGNORECASE)
_ID_ALLOWED = "a letter or digit, then up to 127 letters, digits, dots, underscores, hyphens"


def identify(target: bytes, headers: Headers) -> tuple[Tags, Route]:
    """Return a call's tags and route.

    Raises BadCall (`invalid_target`) for a request target that could mean another place upstream.
    """
    place = _place_of(target) if len(target) <= _LONGEST_REMEMBERED else _read_target(target)
    raw = {tag: (text, source) for tag, text, source in place.tags}
    anthropic, baggage = False, []
    for name, value in [header for header in headers if RULES[header[0]].is_read]:
        tag, source = _HEADERS_READ[RULES[name].lower]
        if tag == "baggage":
            baggage.append(value)
        elif tag == "anthropic-version":
            anthropic = True
        else:
            _offer(raw, tag, value.decode("latin-1").strip(), source)
    if baggage:
        for member, text in baggage_members(b",".join(baggage)).items():
            if member in _BAGGAGE_TAGS:
                _offer(raw, _BAGGAGE_TAGS[member], text, f"baggage {member}")
    return _understood(raw), place.anthropic if anthropic else place.route


def _offer(raw: _RawTags, tag: str, text: str, source: str) -> None:
    if text and tag not in raw:
        raw[tag] = text, source


def _read_target(target: bytes) -> _Place:
    path, mark, query = checked_target(target).partition(b"?")
    raw = _RawTags()
    path, upstream = _strip_prefixes(path, raw)
    plain, rest = plain_path(path), path + mark + query
    return _Place(
        tuple((tag, text, source) for tag, (text, source) in raw.items()),
        _route(plain, rest, upstream, anthropic=False),
        _route(plain, rest, upstream, anthropic=True),
    )


_place_of = lru_cache(_TARGETS_REMEMBERED)(_read_target)
"""An agent calls the same few targets; the cache is bounded, for clients choose them."""


def checked_target(target: bytes) -> bytes:
    """Return the request target if it is a plain absolute path, else raise BadCall.

    A provider may fold dot segments, double or encoded slashes, cut a fragment off, or let a `$` in
    a pattern match before a line end: what we classify must be what it serves (`docs/wire.md`).
    """
    path, _, query = target.partition(b"?")
    decoded = unquote_to_bytes(path) if b"%" in path else path
    if query and _names_method(query):
        raise BadCall("invalid_target", "The query must not name another method.")
    odd = (
        not path.startswith(b"/")
        or _NEVER_IN_TARGET.search(target)
        or _NEVER_IN_PATH.search(decoded)
        or _ENCODED_SLASH.search(path)
        or (b"/." in decoded and _has_dot_segment(decoded))
    )
    if odd:
        raise BadCall(
            "invalid_target",
            "The request target must be an absolute path without empty or dot segments, "
            "encoded slashes, backslashes, control characters or a fragment.",
        )
    return target


def _names_method(query: bytes) -> bool:
    names = (part.partition(b"=")[0] for part in _BETWEEN_PARAMETERS.split(query))
    return any(unquote_to_bytes(name).strip().lower() in _METHOD_PARAMETERS for name in names)


def _has_dot_segment(path: bytes) -> bool:
    return not {b".", b".."}.isdisjoint(_PATH_PARAMETERS.sub(b"", path).split(b"/"))


def _strip_prefixes(path: bytes, raw: _RawTags) -> tuple[bytes, str]:
    """Take `/t/<task>/<phase>` and `/u/<upstream>` off the path, in that order."""
    upstream = ""
    if path.startswith(b"/t/"):
        match path.split(b"/", 4):
            case [_, _, task, phase, rest]:
                _offer(raw, "task", unquote_to_bytes(task).decode("latin-1"), "URL /t/<task>")
                named = unquote_to_bytes(phase).decode("latin-1")
                if named != "-":
                    _offer(raw, "phase", named, "URL /t/<task>/<phase>")
                path = b"/" + rest
            case _:
                raise BadCall("invalid_target", "Expected /t/<task>/<phase or ->/<path>.")
    if path.startswith(b"/u/"):
        match path.split(b"/", 3):
            case [_, _, name, rest]:
                upstream = name.decode("latin-1")
                path = b"/" + rest
            case _:
                raise BadCall("invalid_target", "Expected /u/<upstream>/<path>.")
    return path, upstream


def _understood(raw: _RawTags) -> Tags:
    """Return the tags as values; what cannot be understood is listed and counts as not said."""
    if not raw:
        return _NO_TAGS
    said: dict[str, Any] = {}
    invalid: list[InvalidTag] = []
    for tag in _TAGS:
        if tag in raw:
            text, source = raw[tag]
            said[tag], allowed = _value_of(tag, text)
            if said[tag] is None:
                invalid.append(InvalidTag(source, text, allowed))
    return Tags(**said, invalid=tuple(invalid))


def _value_of(tag: str, text: str) -> tuple[Any, str]:
    """Return what a tag's text stands for, or None and what would be allowed."""
    if tag in ("task", "parent"):
        return (text, "") if ID_PATTERN.fullmatch(text) else (None, _ID_ALLOWED)
    if tag == "grace":
        return text == "1", ""
    vocabulary = _VOCABULARIES[tag]
    member = parse_term(vocabulary, text)
    return member, "" if member is not None else allowed_terms(vocabulary)


def plain_path(path: bytes) -> bytes:
    """Return a path as the most lenient server reads it.

    Decoded, in any letter case, without path parameters.
    """
    plain = unquote_to_bytes(path) if b"%" in path else path
    return _PATH_PARAMETERS.sub(b"", plain).lower().rstrip(b"/ ") + b"/"


def deployments_of(target: bytes) -> tuple[str, ...]:
    """Return the deployments that a path names: Azure's way to name a model."""
    path = _PATH_PARAMETERS.sub(b"", unquote_to_bytes(target.partition(b"?")[0]))
    return tuple(name.decode("utf-8", "replace") for name in _DEPLOYMENT.findall(path))


def _route(plain: bytes, target: bytes, upstream: str, *, anthropic: bool) -> Route:
    """Return where the call goes by its path, `anthropic-version` and the named upstream."""
    fitting = (dialect for ending, dialect in _DIALECTS if plain.endswith(ending))
    dialect = next(fitting, Dialect.UNMETERED)
    if plain.startswith(b"/v1beta/") or _GEMINI_VERB.search(plain):
        default = "gemini"
    elif plain.startswith(b"/v1/messages/") or anthropic:
        default = "anthropic"
    else:
        default = "openai"
    # Gemini's own routes; its OpenAI-compatible one is called by OpenAI clients.
    gemini = default == "gemini" and not dialect.startswith("openai")
    shape = ErrorShape.GEMINI if gemini else ErrorShape.OPENAI_ANTHROPIC
    return Route(upstream or default, target, dialect, shape, bool(upstream))
