"""What of a client's request is handed to litellm: members that are known, and nothing else.

litellm takes its own settings (`api_base`, `aws_*`, `fallbacks`, `mock_response`, ...) among a
request's members, and fetches what URLs in a message name. Neither is for a client to say.
"""

from typing import Any

import msgspec

_CHAT = frozenset(
    [
        "messages",
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "stop",
        "n",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "response_format",
        "reasoning_effort",
        "thinking",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "seed",
    ]
)
_MESSAGES = frozenset(
    [
        "messages",
        "model",
        "stream",
        "max_tokens",
        "system",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
    ]
)
# They change nothing of what is said: caching, storage, accounting of the provider they are for.
_HINTS = frozenset(
    [
        "user",
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "cache_control",
        "context_management",
        "betas",
        "inference_geo",
    ]
)
_REMOTE = ("http:", "https:", "gs:", "s3:", "ftp:", "file:")
_TEXT_MEMBERS = frozenset(
    [
        "text",
        "content",
        "arguments",
        "input",
        "thinking",
        "reasoning_content",
        "refusal",
        "name",
        "id",
        "tool_call_id",
        "tool_use_id",
        "signature",
        "data",
        "thinking_blocks",
    ]
)


class RequestRefusedError(Exception):
    """A request that is not sent on; `param` names the member that is in the way."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.status = message, param, status


def read_chat(body: bytes) -> dict[str, Any]:
    """Return the members of a Chat Completions request. Raises RequestRefusedError."""
    return _read(body, _CHAT)


def read_messages(body: bytes) -> dict[str, Any]:
    """Return the members of a Messages request. Raises RequestRefusedError."""
    found = _read(body, _MESSAGES)
    if not isinstance(found.get("max_tokens"), int):
        raise RequestRefusedError("max_tokens: Field required", "max_tokens")
    return found


def _read(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestRefusedError("The body is no JSON object.") from None
    said = {name: value for name, value in found.items() if value is not None}
    for name in said:
        if name not in known and name not in _HINTS:
            raise RequestRefusedError(f"{name} is not supported on a translated route", name)
    for name, kind in (("model", str), ("messages", list)):
        if not isinstance(said.get(name), kind) or not said[name]:
            raise RequestRefusedError(f"{name}: Field required", name)
    return {name: value for name, value in said.items() if name in known}


def refuse_remote_content(messages: list[Any]) -> None:
    """Raise RequestRefusedError for content that whoever translates it would have to fetch."""
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            _look_for_urls(content)


def _look_for_urls(value: object) -> None:
    if isinstance(value, str) and value.strip().lower().startswith(_REMOTE):
        raise RequestRefusedError(
            "Content by URL is not fetched on a translated route: send it as a data: URL.",
            "messages",
        )
    if isinstance(value, list):
        for each in value:
            _look_for_urls(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name not in _TEXT_MEMBERS or isinstance(each, dict | list):
                _look_for_urls(each)
