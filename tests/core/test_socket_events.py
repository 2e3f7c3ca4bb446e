"""Events of a WebSocket, as far as a budget reads them."""

import json

import pytest

from gateway.core.errors import BadCall
from gateway.core.socket_events import (
    ClientEvent,
    error_event,
    read_client_event,
    read_server_event,
    session_models,
)

BODY = b'{"type":"error","error":{"code":"c","message":"m"},"request_id":"call-1"}'


def test_a_clients_event_is_read() -> None:
    event = read_client_event('{"type":"response.create","stream_id":"a","event_id":"e","x":1}')
    assert event == ClientEvent("response.create", "a", "e")


@pytest.mark.parametrize(
    "message",
    [
        b'{"type":"response.create"}',
        "",
        "[]",
        "{}",
        '{"type":1}',
        '{"type":"a","type":"b"}',
        '{"type":"a","\\u0074ype":"b"}',
        '{"type":"a","stream_id":1,"stream_id":2}',
    ],
)
def test_what_could_be_read_otherwise_is_refused(message: str | bytes) -> None:
    with pytest.raises(BadCall):
        read_client_event(message)


def test_a_providers_event_names_its_response() -> None:
    for data, found in (
        (b'{"type":"a"}', ""),
        (b'{"type":"a","response_id":"r"}', "r"),
        (b'{"type":"a","response":{"id":"r"}}', "r"),
        (b'{"type":"a","response":{}}', ""),
    ):
        event = read_server_event(data)
        assert event is not None
        assert event.of_response == found
    assert read_server_event(b"\xff") is None


@pytest.mark.parametrize(
    ("session", "models"),
    [
        ({"model": "m"}, ("m", "")),
        ({"audio": {"input": {"transcription": {"model": "t"}}}}, ("", "t")),
        ({"model": 1, "input_audio_transcription": {"model": "t"}}, ("", "t")),
        ([], ("", "")),
    ],
)
def test_a_session_names_its_models(session: object, models: tuple[str, str]) -> None:
    assert session_models(json.dumps({"session": session}).encode()) == models


def test_a_session_that_cannot_be_read_names_none() -> None:
    assert session_models(b"[]") == ("", "")


def test_a_refusal_has_both_shapes() -> None:
    event = json.loads(error_event(BODY, 400, ClientEvent("x", "lane", "mine")))
    assert event["error"] == {"code": "c", "message": "m", "event_id": "mine"}
    assert (event["code"], event["message"], event["status"]) == ("c", "m", 400)
    assert event["stream_id"] == "lane"
    assert event["headers"] == {"x-should-retry": "false"}


def test_a_refusal_of_nothing_named_names_nothing() -> None:
    for named in (None, ClientEvent("x")):
        event = json.loads(error_event(BODY, 429, named))
        assert "stream_id" not in event
        assert "event_id" not in event["error"]
        assert event["headers"] == {"x-should-retry": "true"}
