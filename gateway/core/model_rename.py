"""Another model's name in a request, and no other byte: wherever the name stands.

In the body's `model`, in Gemini's path before the verb, in Azure's path as the deployment.
"""

import re
from urllib.parse import quote

import msgspec

from gateway.core.identity import Dialect, deployments_of
from gateway.core.json_edit import with_members

_DEPLOYMENT = re.compile(rb"(/(?:deployments|engines)/)[^/;]+", re.IGNORECASE)
_VERB = re.compile(rb"[^/:]+(?=:[A-Za-z]+/?$)")
_OBJECT = re.compile(rb"[ \t\r\n]*\{")
_IN_PATH = frozenset({Dialect.GEMINI, Dialect.GEMINI_STREAM})


def renamed(
    dialect: Dialect, target: bytes, body: bytes, model: str, *, in_body: bool
) -> tuple[bytes, bytes] | None:
    """Return target and body of a request with `model` for the one that it names.

    `in_body` tells that the body names one. None where `can_rename` is False.
    """
    if not can_rename(dialect, target, body, in_body=in_body):
        return None
    path, mark, query = target.partition(b"?")
    name = quote(model, safe="").encode()
    if dialect in _IN_PATH:
        return _VERB.sub(name, path) + mark + query, body
    if in_body:
        body = with_members(body, {b"model": msgspec.json.encode(model)})
    return _DEPLOYMENT.sub(rb"\g<1>" + name, path) + mark + query, body


def can_rename(dialect: Dialect, target: bytes, body: bytes, *, in_body: bool) -> bool:
    """Return whether the name can be told from the rest: not in a form, or an odd path."""
    path = target.partition(b"?")[0]
    if dialect in _IN_PATH:
        return _VERB.search(path) is not None
    if deployments_of(target) and _DEPLOYMENT.search(path) is None:
        return False
    return not in_body or _OBJECT.match(body) is not None
