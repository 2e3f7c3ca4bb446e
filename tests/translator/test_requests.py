"""What of a request is handed to litellm."""

import json
from typing import Any

import pytest

from gateway.translator.requests import (
    RequestRefusedError,
    read_chat,
    read_messages,
    refuse_remote_content,
)

SAY = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "m", "messages": SAY}
STEERING = (
    "api_base base_url api_key aws_access_key_id mock_response fallbacks num_retries extra_headers"
    " custom_llm_provider timeout client proxy_url"
)


def chat(**more: Any) -> dict[str, Any]:
    return read_chat(json.dumps({**CHAT, **more}).encode())


def test_known_members_pass() -> None:
    assert chat(temperature=0.5, tools=[], seed=None) == {**CHAT, "temperature": 0.5, "tools": []}


def test_hints_are_left_out() -> None:
    assert chat(user="me", metadata={"a": 1}, store=True) == CHAT


@pytest.mark.parametrize("name", STEERING.split())
def test_what_would_steer_litellm_is_refused(name: str) -> None:
    for read in (read_chat, read_messages):
        with pytest.raises(RequestRefusedError) as raised:
            read(json.dumps({**CHAT, "max_tokens": 1, name: "x"}).encode())
        assert (raised.value.param, raised.value.status) == (name, 400)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":"\xff"}'])
def test_no_json_object(body: bytes) -> None:
    with pytest.raises(RequestRefusedError):
        read_chat(body)


@pytest.mark.parametrize("lack", [{"model": ""}, {"model": 7}, {"messages": []}, {"messages": "x"}])
def test_no_model_or_messages(lack: dict[str, Any]) -> None:
    with pytest.raises(RequestRefusedError) as raised:
        chat(**lack)
    assert raised.value.param == next(iter(lack))


def test_a_message_needs_its_limit() -> None:
    assert read_messages(json.dumps({**CHAT, "max_tokens": 0}).encode())["max_tokens"] == 0
    with pytest.raises(RequestRefusedError, match="max_tokens"):
        read_messages(json.dumps(CHAT).encode())


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "image_url", "image_url": " HTTPS://x/y.png"},
        {"type": "file", "file": {"file_id": "gs://bucket/x.pdf"}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"url": "file:///etc"}}]},
        {"type": "input_audio", "input_audio": {"data": {"url": "s3://x"}}},
    ],
)
def test_content_by_url_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(RequestRefusedError):
        refuse_remote_content([{"role": "user", "content": [part]}])


def test_urls_in_what_is_said_are_text() -> None:
    refuse_remote_content(
        [
            {"role": "user", "content": "http://x/"},
            {"role": "user", "content": [{"type": "text", "text": "https://x/"}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
            {"role": "tool", "content": [{"type": "tool_result", "content": "http://x"}]},
            {"role": "assistant", "content": None},
            "odd",
        ]
    )
