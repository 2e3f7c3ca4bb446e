"""The requests of a measurement, made beforehand: what the openai SDK sends, from many tasks."""

import json
from collections.abc import Mapping
from itertools import cycle, islice

from gateway.core.phases import WorkPhase
from loadtest.provider_tokens import WORDS

TASKS = 50
_MODEL = "gpt-4o-mini"
# What openai-python 2.54 sends beside Host, Content-Type and Content-Length.
_SDK_HEADERS = {
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "Accept": "application/json",
    "User-Agent": "OpenAI/Python 2.54.0",
    "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "2.54.0",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython",
    "X-Stainless-Runtime-Version": "3.11.7",
    "X-Stainless-Async": "false",
    "X-Stainless-Retry-Count": "0",
    "X-Stainless-Read-Timeout": "600",
    "Authorization": "Bearer sk-load-test",
}
DIRECT, THROUGH = "direct", "through"


def chat_body(size_bytes: int, *, stream: bool = False) -> bytes:
    """A chat request's body of exactly this size."""
    request: dict[str, object] = {
        "messages": [
            {"role": "system", "content": "You are a careful engineer."},
            {"role": "user", "content": ""},
        ],
        "model": _MODEL,
        "stream": stream,
    }
    # Without white space, as the SDK's HTTP client writes it.
    before, quotes, after = json.dumps(request, separators=(",", ":")).rpartition('""')
    words = "".join(islice(cycle(WORDS), size_bytes))
    text = words[: size_bytes - len(before) - len(quotes) - len(after)]
    return f'{before}"{text}"{after}'.encode()


def chat_requests(
    address: tuple[str, int],
    body: bytes,
    *,
    arm: str = THROUGH,
    prefix: str = "load",
    headers: Mapping[str, str] | None = None,
) -> list[bytes]:
    """A request for each task and phase. The provider's journal tells the arms apart by `arm`."""
    return [
        _request(
            address,
            body,
            {
                **_SDK_HEADERS,
                "X-Task-Id": f"{prefix}-{number:02}",
                "X-Task-Phase": phase.value,
                "X-Request-Tag": arm,
                **(headers or {}),
            },
        )
        for phase in WorkPhase
        for number in range(TASKS)
    ]


def _request(address: tuple[str, int], body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {address[0]}:{address[1]}",
        "Content-Type: application/json",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
