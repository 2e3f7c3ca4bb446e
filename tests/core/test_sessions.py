"""Session bindings: whose they are, and where they stand among a call's tags (GW-9)."""

import pytest
from msgspec import structs

from gateway.core.identity import Tags, identify
from gateway.core.keys import GatewayKey, TagTexts, tags_under, with_binding
from gateway.core.phases import WorkPhase
from gateway.core.sessions import (
    SESSION_HEADERS,
    UNBOUND,
    Binding,
    Session,
    binding_text,
    session_id,
    session_of,
)

BOUND = Binding("BOUND", WorkPhase.PLAN, "ann", 1, 2)
SESSION = Session("s-1", binding_text(BOUND), BOUND)
KEY = GatewayKey("k3v9q2xa", "digest", "an agent", defaults=TagTexts("DEFAULT", WorkPhase.PR))


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([(b"X-Claude-Code-Session-Id", b" s-1 ")], "s-1"),
        ([(b"session_id", b"older"), (b"Session-Id", b"newer")], "newer"),
        ([(b"session-id", b"no good id"), (b"session_id", b"good")], "good"),
        ([(b"session-id", b"-")], ""),
        ([(b"x-session", b"s-1")], ""),
        ([], ""),
    ],
)
def test_a_session_is_named_by_the_first_header_that_is_there(
    headers: list[tuple[bytes, bytes]], found: str
) -> None:
    assert session_id(headers, SESSION_HEADERS) == found


def test_a_binding_is_read_as_it_was_written() -> None:
    assert session_of("s-1", SESSION.text) == SESSION
    assert session_of("s-1", None) == Session("s-1", UNBOUND, None)


@pytest.mark.parametrize(
    ("target", "headers", "task"),
    [
        (b"/t/URL/-/v1/x", [(b"x-task-id", b"HEADER")], "URL"),
        (b"/v1/x", [(b"baggage", b"task.id=BAGGAGE"), (b"x-task-id", b"HEADER")], "HEADER"),
        (b"/v1/x", [(b"baggage", b"task.id=BAGGAGE")], "BAGGAGE"),
        (b"/v1/x", [], "BOUND"),
    ],
)
def test_the_order_of_precedence(
    target: bytes, headers: list[tuple[bytes, bytes]], task: str
) -> None:
    """URL, headers, baggage, session; the key's default comes last."""
    tags, _ = identify(target, headers)
    bound = structs.replace(tags, session=SESSION) if tags.task is None else tags
    assert with_binding(bound).task == task
    assert tags_under(KEY, bound).task == task
    if task == "BOUND":
        assert tags_under(KEY, tags).task == "DEFAULT"


def test_the_session_s_phase_is_for_calls_that_name_none() -> None:
    assert with_binding(Tags(session=SESSION)).phase is WorkPhase.PLAN
    assert tags_under(KEY, Tags(session=SESSION)).phase is WorkPhase.PLAN
    named = Tags(phase=WorkPhase.VERIFY, session=SESSION)
    assert with_binding(named).phase is WorkPhase.VERIFY
    current = structs.replace(SESSION, binding=Binding("BOUND"))
    assert with_binding(Tags(session=current)).phase is None


def test_a_session_that_is_bound_to_nothing_changes_nothing() -> None:
    tags = Tags(session=Session("s-1"))
    assert with_binding(tags) is tags
    assert tags_under(KEY, tags).task == "DEFAULT"


def test_a_key_does_not_forbid_a_binding_and_its_pins_hold() -> None:
    """The orchestrator made it, not the caller."""
    mute = structs.replace(KEY, may_set=())
    assert tags_under(mute, Tags(session=SESSION)).task == "BOUND"
    pinned = structs.replace(KEY, pins=TagTexts(phase=WorkPhase.SPEC))
    assert tags_under(pinned, Tags(session=SESSION)).phase is WorkPhase.SPEC
