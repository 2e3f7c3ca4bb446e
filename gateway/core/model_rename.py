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
_IN_PATH = frozenset({Dialect.GEMINI, Dialect.GEMINI_STREAM})


def renamed(
    dialect: Dialect, target: bytes, body: bytes, model: str, *, in_body: bool
) -> tuple[bytes, bytes] | None:
    """Return target and body of a request with `model` for the one that it names.

    `in_body` tells that the body names one. None where the name cannot be told from the rest: in
    a form, or a path that spells it oddly.
    """
    path, mark, query = target.partition(b"?")
    name = quote(model, safe="").encode()
    if dialect in _IN_PATH:
        path, found = _VERB.subn(name, path)
        return (path + mark + query, body) if found else None
    if deployments_of(target):
        path, found = _DEPLOYMENT.subn(rb"\1" + name, path)
        if not found:
            return None
    if in_body:
        if not body.lstrip().startswith(b"{"):
            return None
        body = with_members(body, {b"model": msgspec.json.encode(model)})
    return path + mark + query, body
