"""How a stream is ended from here: golden bytes of each dialect, read as its clients read them."""

import json

import pytest

from gateway.core.dialects.stream_end import Cut
from gateway.core.dialects.table import WIRE_FORMATS
from gateway.core.identity import Dialect
from gateway.core.sse import EventSplitter, event_data

CUT = Cut("task_budget_exceeded", 'Task T is "over".', "resp_1", "m-1", 7)
ERROR = (
    b'{"message":"Task T is \\"over\\".","type":"billing_error","param":null,'
    b'"code":"task_budget_exceeded"'
)
GOLDEN = {
    Dialect.OPENAI_CHAT: b'data: {"error":' + ERROR + b"}}\n\ndata: [DONE]\n\n",
    Dialect.OPENAI_COMPLETIONS: b'data: {"error":' + ERROR + b"}}\n\ndata: [DONE]\n\n",
    Dialect.OPENAI_RESPONSES: (
        b'event: response.failed\ndata: {"type":"response.failed","sequence_number":7,"response":'
        b'{"id":"resp_1","object":"response","created_at":0,"status":"failed","background":false,'
        b'"error":{"code":"insufficient_quota","message":"Task T is \\"over\\". '
        b'(task_budget_exceeded)"},"incomplete_details":null,"instructions":null,"metadata":{},'
        b'"model":"m-1","output":[],"parallel_tool_calls":true,"tool_choice":"auto","tools":[],'
        b'"usage":null}}\n\n'
    ),
    Dialect.ANTHROPIC_MESSAGES: (
        b'event: error\ndata: {"type":"error","error":'
        + ERROR
        + b',"details":{"error_code":"task_budget_exceeded"}}}\n\n'
    ),
    Dialect.GEMINI_STREAM: (
        b'data: {"error":{"code":400,"message":"Task T is \\"over\\".","status":'
        b'"FAILED_PRECONDITION","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo",'
        b'"reason":"task_budget_exceeded","domain":"tollgate"}]}}\r\n\r\n'
    ),
    Dialect.OLLAMA: b'{"error":"Task T is \\"over\\". (task_budget_exceeded)"}\n',
}


@pytest.mark.parametrize("dialect", GOLDEN)
def test_the_end_of_a_stream(dialect: Dialect) -> None:
    """An error with code and reason, in whole events; as `docs/wire.md` says."""
    end = WIRE_FORMATS[dialect].stream_end
    assert end is not None
    assert end(CUT) == GOLDEN[dialect]


def test_only_streams_of_generated_text_are_ever_cut() -> None:
    """Images, sound and embeddings have no such end."""
    ending = {name for name, wire in WIRE_FORMATS.items() if wire.stream_end is not None}
    nothing_streams = {Dialect.GEMINI, Dialect.OLLAMA_EMBED}
    assert ending - nothing_streams == set(GOLDEN)


@pytest.mark.parametrize("dialect", GOLDEN)
def test_it_reads_as_an_error_in_its_dialect(dialect: Dialect) -> None:
    """Whole events, the data of each whole JSON; a meter sees an error and no usage."""
    wire = WIRE_FORMATS[dialect]
    assert wire.stream_end is not None
    data = wire.stream_end(CUT)
    if not wire.streams_lines:
        splitter = EventSplitter()
        events = [event_data(event) for event in splitter.feed(data)]
        assert splitter.held_back == 0
        data = events[0]
        assert events[1:] in ([], [b"[DONE]"])
    json.loads(data)
    answer = wire.read_answer(data)
    assert answer is not None
    assert answer.error is not None
    assert answer.usage_after(None) is None
