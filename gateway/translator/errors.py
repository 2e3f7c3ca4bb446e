"""What went wrong at the far side, in the client's words.

litellm wraps what a provider said in exceptions of its own, changes some statuses, and puts class
names before the text. The provider's answer is still in the chain of causes: status, message and
the headers that rule retries are taken from there.
"""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

_LONGEST_MESSAGE = 2_000  # characters
_SERVER_ERROR = 500
_KEPT_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "request-id")
_OPENAI_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)
_CLASS_NAMES = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Timeout|Exception)\s*(?::|-)\s*)+")
_ADDED = re.compile(
    r"\s*(?:\nTraceback|This looks like a bug in LiteLLM|Handle with `litellm|Original exception:"
    r"|File an issue if litellm|To drop these, set).*",
    re.DOTALL,
)
_KEY_SHAPES = re.compile(r"\b(?:sk-[\w-]{8,}|AIza[\w-]{10,}|A[KS]IA[A-Z0-9]{8,})")
HIDDEN = "***"


class Failure(msgspec.Struct, frozen=True):
    """An error as it is told to a client; `headers` are the far side's that rule retries."""

    status: int
    message: str
    kind: str = ""
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = {}

    def body(self, *, is_anthropic: bool) -> dict[str, Any]:
        """Return the answer's JSON in the caller's shape."""
        kind = self.kind or _kind_of(self.status)
        if is_anthropic:
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        said = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": said}


def failure_of(error: BaseException, key: str) -> Failure | None:
    """Return what an exception says; None if nobody knows what became of the call.

    None means that it was sent and no proper answer came back: it may be billed.
    """
    chain = list(_chain(error))
    for each in chain:
        response = getattr(each, "response", None)
        if isinstance(each, httpx.HTTPStatusError) and isinstance(response, httpx.Response):
            return _answered(response, key)
    if any(isinstance(each, _NEVER_SENT) for each in chain):
        return Failure(502, "The provider cannot be reached.", code="upstream_unreachable")
    if any(type(each).__module__.startswith("botocore.") for each in chain):
        return Failure(_SERVER_ERROR, f"AWS credentials: {cleaned(str(chain[-1]), key)}")
    if getattr(error, "status_code", None) == 400:  # noqa: PLR2004
        return Failure(400, cleaned(str(error), key))
    return None


def cleaned(text: str, key: str = "") -> str:
    """Return an exception's text without class names, advice about litellm, and keys."""
    text = _CLASS_NAMES.sub("", _ADDED.sub("", text)).strip()
    if key:
        text = text.replace(key, HIDDEN)
    return _KEY_SHAPES.sub(HIDDEN, text)[:_LONGEST_MESSAGE] or "The call failed."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _answered(response: httpx.Response, key: str) -> Failure:
    try:
        text = response.text
    except httpx.ResponseNotRead:
        text = ""
    said = _error_in(text)
    kind, code = said.get("type"), said.get("code")
    message = said.get("message")
    return Failure(
        response.status_code,
        cleaned(message if isinstance(message, str) else text, key),
        kind=kind if isinstance(kind, str) else "",
        code=code if isinstance(code, str) else None,
        headers={
            name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers
        },
    )


def _error_in(text: str) -> dict[str, Any]:
    """Return the error of a provider's answer: OpenAI, Anthropic, Google nest it, AWS does not."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, dict):
        return {}
    return found["error"] if isinstance(found.get("error"), dict) else found


def _kind_of(status: int) -> str:
    if status >= _SERVER_ERROR:
        return "api_error"
    return _OPENAI_TYPES.get(status, "invalid_request_error")
