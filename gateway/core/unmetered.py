"""Routes that no wire format meters: which are free, and what becomes of those that are not.

What is free is listed; anything else that makes a provider work counts as what cannot be metered.
Sources: `docs/wire.md`, routes beside the model calls.
"""

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from gateway.core.decision import Decision, Outcome
from gateway.core.identity import plain_path
from gateway.core.policy import Effect, Mode, UnmeteredRoutePolicy
from gateway.core.vocabulary import Vocabulary

CODE = "unmetered_route"


class RouteKind(Vocabulary):
    """FREE costs no tokens, UNMETERED costs and reports nothing here.

    A HAND_OUT is a key to a connection that goes past the gateway.
    """

    FREE = "free"
    UNMETERED = "unmetered"
    HAND_OUT = "hand_out"


# Reading and deleting generate nothing.
_READING = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})
# Each pattern is the end of a plain path: decoded, in lower case, with a slash at its end.
_HAND_OUTS = (
    "/realtime/client_secrets",
    "/realtime/translations/client_secrets",
    "/realtime/calls",
    "/realtime/sessions",
    "/realtime/transcription_sessions",
    "/live/sessions",
    "/chatkit/sessions",
)
_FREE = (
    "/moderations",
    # Counting.
    "/count_tokens",
    "/input_tokens",
    "/count-tokens",
    "/[^/:]+:counttokens",
    "/tokenize",
    "/detokenize",
    # Files: bytes are kept, no model reads them.
    "/files",
    "/uploads",
    "/uploads/[^/]+/(?:parts|complete|cancel)",
    "/upload/v1(?:beta)?/files",
    # What is only kept until a model call names it.
    "/conversations",
    "/conversations/[^/]+",
    "/conversations/[^/]+/items",
    "/threads",
    "/threads/[^/]+(?<!/runs)",
    "/threads/[^/]+/messages",
    "/threads/[^/]+/messages/[^/]+",
    "/chat/completions/[^/]+",
    # Stopping what runs.
    "/(?:responses|batches|runs|jobs)/[^/]+/cancel",
    # What a local server has.
    "/api/show",
)
# Reading them opens a connection on which models are called.
_SOCKETS = ("/realtime", "/live")


def _ends(patterns: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(f"(?:{'|'.join(patterns)})/$".encode())


_is_hand_out, _is_free, _is_socket = (
    _ends(patterns).search for patterns in (_HAND_OUTS, _FREE, _SOCKETS)
)


# Where a server may see an end of the path that another one does not see.
_DOUBTFUL = re.compile(rb"[;?#%]").search


_answers_later = re.compile(rb"/responses/[^/]+/(?:cancel/)?$").search


@lru_cache(1_024)
def is_later_answer(path: bytes) -> bool:
    """Return whether a route answers with a response that was asked for before."""
    return _answers_later(plain_path(path)) is not None


@lru_cache(1_024)
def kind_of(method: bytes, path: bytes) -> RouteKind:
    """Return what a route is that no wire format meters; `path` comes without its query."""
    plain = plain_path(path)
    if method in _READING:
        return RouteKind.UNMETERED if _is_socket(plain) else RouteKind.FREE
    if _is_hand_out(plain):
        return RouteKind.HAND_OUT
    is_free = _is_free(plain) and not _DOUBTFUL(unquote_to_bytes(path))
    return RouteKind.FREE if is_free else RouteKind.UNMETERED


_ALLOW = Decision(Outcome.ALLOW)
_FLAG = Decision(Outcome.FLAG, code=CODE)
_WOULD_REFUSE = Decision(Outcome.FLAG, code=CODE, would_refuse=True)
_WHY = {
    RouteKind.UNMETERED: "what it uses cannot be metered, so no budget would hold for it",
    RouteKind.HAND_OUT: "it hands out a connection to the provider that goes past every budget",
}


def decide_unmetered(
    method: bytes,
    path: bytes,
    policy: UnmeteredRoutePolicy,
    mode: Mode,
    *,
    asks_model: bool = False,
) -> Decision:
    """Return the decision for a call on a route that no wire format meters.

    `mode` is the one in which the policy acts here and now. `asks_model` tells that a request which
    reads has the path of a model call and a body like one: a lenient server may answer it.
    """
    kind = kind_of(b"POST" if asks_model else method, path)
    if kind is RouteKind.FREE or mode is Mode.OFF:
        return _ALLOW
    said, where = method.decode("latin-1"), path.decode("latin-1")
    if policy.is_free(said, where):
        return _ALLOW
    if policy.effect is not Effect.REFUSE:
        return _FLAG
    if mode is not Mode.ENFORCE:
        return _WOULD_REFUSE
    return Decision(
        Outcome.REFUSE,
        code=CODE,
        message=f"{said} {where[:256]} is refused: {_WHY[kind]}. Retrying will not help. Use a "
        "route that is metered, or ask the operator of the gateway to list this one under `free:` "
        f"in a policy of kind {CODE}.",
    )
