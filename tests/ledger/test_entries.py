"""Entries as rows: older gateways wrote shorter ones, hostile clients odd ones."""

import msgspec

from gateway.core.call_facts import CallOutcome
from gateway.core.usage import NO_USAGE, Usage
from gateway.ledger.entries import EntryReader

READER = EntryReader("default", 400)
SETTLED = "settled 1700000000000 task:T c-1 20 10 PLAN 1 28 7 100 9 40,30"


def test_an_entry_of_an_older_gateway() -> None:
    """Fields that it did not know have their defaults."""
    rows = READER.rows_of([("1-0", {"e": SETTLED, "a": '["gpt-4o"]', "o": '["allow","",200]'})])
    (call,) = rows.calls
    assert (call["call_id"], call["number"], call["reserve_number"]) == ("c-1", 20, 10)
    assert (call["tokens"], call["held_tokens"], call["held_nano_usd"]) == (28, 100, 9)
    assert (call["task_latency_ms"], call["phase_latency_ms"]) == (40, 30)
    assert (call["model"], call["status"], call["spent_tokens"]) == ("gpt-4o", 200, None)
    assert call["nano_usd"] is None  # it does not say that the price was known
    assert rows.rejected == []


def test_what_is_billed_beside_tokens() -> None:
    """It travels only where there is something; an entry without it has nothing of it."""
    billed = Usage(
        input_total=9,
        cache_write=7,
        cache_write_1h=5,
        web_searches=2,
        seconds=3,
        characters=4,
        images=1,
        terms="flex us",
    )
    names = ("cache_write_1h_tokens", "web_searches", "seconds", "characters", "images", "terms")
    for usage, expected in ((billed, (5, 2, 3, 4, 1, "flex us")), (NO_USAGE, (0,) * 5 + (None,))):
        told = msgspec.json.encode(CallOutcome(decision="allow", usage=usage)).decode()
        (call,) = READER.rows_of([("1-0", {"e": SETTLED, "a": "[]", "o": told})]).calls
        assert tuple(call[name] for name in names) == expected
        assert ("seconds" in told) is (usage is billed)


def test_latency_of_ancestors() -> None:
    """Known by depth; those that waited for nothing are left out."""
    words = SETTLED.replace("40,30", "40,0,25,30")
    rows = READER.rows_of([("1-0", {"e": words, "a": "[]", "o": "[]"})])
    assert [(one["depth"], one["latency_ms"]) for one in rows.inherited_latency] == [(2, 25)]
    assert rows.calls[0]["phase_latency_ms"] == 30
    without_phase = words.replace("PLAN", "-")
    rows = READER.rows_of([("1-0", {"e": without_phase, "a": "[]", "o": "[]"})])
    assert [one["depth"] for one in rows.inherited_latency] == [2, 3]


def test_a_bucket_of_untagged_calls() -> None:
    """It is a task of its own, named by the gateway key's id."""
    words = SETTLED.replace("task:T", "untagged:anonymous")
    (call,) = READER.rows_of([("1-0", {"e": words, "a": "[]", "o": "[]"})]).calls
    assert call["task"] == "-anonymous"


def test_what_cannot_be_read_is_kept_as_it_is() -> None:
    """With the reason; the entries around it are read. One that the cap has taken is nothing."""
    entries = [
        ("1-0", {"e": "dance 1 task:T"}),
        ("2-0", {"a": "[]"}),
        ("3-0", {"e": SETTLED, "a": "{", "o": "[]"}),
        ("4-0", {"e": SETTLED.replace("task:T", "call:T"), "a": "[]"}),
        ("5-0", {"e": "execution 1 task:T DANCE 1 - - -", "d": ""}),
        ("6-0", {}),
        ("7-0", {"e": SETTLED, "a": "[]", "o": "[]"}),
    ]
    rows = READER.rows_of(entries)
    assert [row["entry_id"] for row in rows.rejected] == ["1-0", "2-0", "3-0", "4-0", "5-0"]
    assert "unknown kind 'dance'" in rows.rejected[0]["reason"]
    assert rows.rejected[0]["entry"] == '{"e":"dance 1 task:T"}'
    assert len(rows.calls) == 1


def test_refusals_by_their_code() -> None:
    """One that may be retried has its own status, and is no breach."""
    words = "refused 1 task:T c-1 0 9 - 0 0 0 0 0 0"
    balances = "1 2 3 4 0 5 6 7 - - - -"
    for stop, status, breaches in (
        ("budget_in_flight 0 0 task T tokens 1 2 3", 429, 0),
        ("task_budget_exceeded 0 0 task T tokens 1 2 3", 400, 1),
        ("runaway_task 1 2 parent UP tokens 1 2 3", 400, 2),
        ("task_killed 0 0 task T", 400, 0),
    ):
        fields = {"e": words, "a": "[]", "s": stop, "b": balances}
        rows = READER.rows_of([("1-0", fields)])
        (call,) = rows.calls
        assert (call["status"], call["number"], len(rows.breaches)) == (status, 9, breaches)
        assert (call["line_tokens"], call["line_latency_ms"], call["line_nano_usd"]) == (3, 5, None)


def test_a_key_that_cannot_be_read_is_set_aside() -> None:
    """And a binding is told with its end, or as ended."""
    told = {"e": "record 5 session:s-1 7", "d": ""}
    rows = READER.rows_of(
        [
            ("1-0", {"e": "record 5 key:ab 6", "k": "no key", "d": ""}),
            ("2-0", {**told, "k": '{"task":"T","expires_ms":9}'}),
            ("3-0", {**told, "k": ""}),
        ]
    )
    assert [row["entry_id"] for row in rows.rejected] == ["1-0"]
    assert [(row["version"], row["expires_ms"]) for row in rows.records] == [(7, 9), (7, None)]
    assert [row["document"] is None for row in rows.records] == [False, True]
    assert rows.audit == []


def test_an_execution_of_an_older_gateway_has_no_generation() -> None:
    words = "execution 5 task:T PLAN 2 1000 - -"
    rows = READER.rows_of([("1-0", {"e": words, "d": ""}), ("2-0", {"e": f"{words} 3", "d": ""})])
    assert [row["generation"] for row in rows.phase_executions] == [None, 3]
