"""What is told to the outside is known by what happened, and by nothing else."""

from msgspec import structs

from gateway.core.notices import Notice, NoticeKind

TRIP = Notice(NoticeKind.TRIP, "1", "default", "T", 1_000, {"used": 5})


def test_the_same_event_has_the_same_id() -> None:
    """However often it is read, and whatever is told of it."""
    assert TRIP.id == structs.replace(TRIP, at_ms=2_000, facts={}).id
    assert len(TRIP.id) == 32


def test_other_events_have_other_ids() -> None:
    others = [
        structs.replace(TRIP, **change)
        for change in (
            {"kind": NoticeKind.KILL},
            {"key": "2"},
            {"tenant": "other"},
            {"task": "T1"},
            {"task": "", "key": "T1"},
        )
    ]
    assert len({TRIP.id, *(notice.id for notice in others)}) == 6
