"""Which response of a socket an event speaks of."""

import json
from itertools import count
from typing import Any

import pytest

from gateway.core.dialects.openai_realtime import OPENAI_REALTIME
from gateway.core.dialects.openai_responses import OPENAI_RESPONSES
from gateway.core.dialects.wire_format import WireFormat
from gateway.core.socket_events import ClientEvent, read_server_event
from gateway.ports import Request
from gateway.socket_run import Run, Runs
from gateway.trace import Trace

_numbers = count(1)


def run(event: ClientEvent | None = None) -> Run:
    request = Request(b"GET", b"/v1/responses", [], b"", 0.0)
    return Run(Trace(f"c-{next(_numbers)}", request, "h"), event, lambda: 1.0)


class Talk:
    """The runs of one socket, and what was begun unasked."""

    def __init__(self, wire: WireFormat = OPENAI_RESPONSES) -> None:
        self.unasked: list[Run] = []
        self.runs = Runs(wire, self._begin)

    def _begin(self) -> Run:
        self.unasked.append(run())
        return self.unasked[-1]

    def ask(self, **names: Any) -> Run:
        event = ClientEvent("response.create", **names)
        asked = run(event)
        self.runs.expect(asked, event)
        return asked

    def hear(self, kind: str, **members: Any) -> None:
        data = json.dumps({"type": kind, **members}).encode()
        event = read_server_event(data)
        assert event is not None
        self.runs.note(event, data)


async def test_an_error_that_names_nothing_ends_what_was_asked_for_first() -> None:
    """Else it would stay open, and every response behind it be taken for the one before."""
    talk = Talk()
    failed, served = talk.ask(event_id="one"), talk.ask(event_id="two")
    talk.hear("error", error={"code": "previous_response_not_found"})
    assert failed.done.done()
    assert failed.seen.error_seen
    talk.hear("response.created", response={"id": "r"})
    talk.hear("response.completed", response={"id": "r"})
    assert served.done.done()
    assert (talk.runs.open, talk.unasked) == (set(), [])


@pytest.mark.parametrize("named", [None, "other"])
async def test_an_error_beside_a_response_ends_nothing_that_waits(named: str | None) -> None:
    """It may speak of what runs, or of another event of the client's."""
    talk = Talk()
    running = talk.ask(event_id="one")
    talk.hear("response.created", response={"id": "r"})
    waiting = talk.ask(event_id="two")
    talk.hear("error", error={"event_id": named})
    assert not (running.done.done() or waiting.done.done())
    talk.hear("error", error={"event_id": "two"})
    assert waiting.done.done()


@pytest.mark.parametrize(
    ("wire", "named"),
    [(OPENAI_RESPONSES, "other"), (OPENAI_REALTIME, "other"), (OPENAI_REALTIME, None)],
)
async def test_an_error_of_another_event_ends_nothing(wire: WireFormat, named: str | None) -> None:
    """A realtime error names the event that it is about, if that has a name."""
    talk = Talk(wire)
    waiting = talk.ask(event_id="one")
    talk.hear("error", error={"event_id": named})
    assert not waiting.done.done()
