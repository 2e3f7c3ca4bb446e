"""Which headers pass each way, and what every answer says about the budget."""

import pytest

from gateway.core.admission import Balance
from gateway.core.headers import (
    HOP_BY_HOP,
    RULES,
    TAG_HEADERS,
    Headers,
    baggage_members,
    budget_header_lines,
    format_usd,
    request_headers,
    response_headers,
    without_task_members,
)


def sent(headers: Headers, *, forward_tags: bool = False, metered: bool = False) -> Headers:
    return request_headers(headers, forward_tags=forward_tags, metered=metered)


def balance(limit: int, settled: int, held: int = 0, granted: int = 0, line: int = 0) -> Balance:
    return Balance(
        limit=limit,
        granted=granted,
        line=line or limit,
        cumulative=line or limit,
        runaway=2 * limit,
        settled=settled,
        held=held,
    )


# Towards the provider -------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_headers_end_here_both_ways(name: bytes) -> None:
    """Connection-level headers are dropped both ways, in any letter case."""
    headers = [(name.title(), b"x"), (b"Accept", b"*/*")]
    assert sent(headers) == [(b"Accept", b"*/*")]
    assert response_headers(headers) == [(b"Accept", b"*/*")]


def test_headers_listed_in_connection_end_here_both_ways() -> None:
    """Every name that any `Connection` header lists is dropped, with odd blanks and case too."""
    headers = [
        (b"Connection", b"keep-alive, X-One ,x-two"),
        (b"X-One", b"1"),
        (b"connection", b"\tX-THREE"),
        (b"x-Two", b"2"),
        (b"X-Three", b"3"),
        (b"X-Four", b"4"),
    ]
    assert sent(headers) == [(b"X-Four", b"4")]
    assert response_headers(headers) == [(b"X-Four", b"4")]


def test_a_connection_that_lists_nothing_of_its_own() -> None:
    """`Connection: keep-alive` takes nothing with it."""
    headers = [(b"Connection", b"keep-alive"), (b"X-One", b"1")]
    assert sent(headers) == response_headers(headers) == [(b"X-One", b"1")]


def test_names_are_remembered_within_bounds() -> None:
    """Clients choose names: a long one is not kept, and many do not pile up."""
    long = b"X-Forwarded-" + b"a" * 60
    assert not RULES[long].passes_up
    assert RULES[long].passes_down
    assert long not in RULES
    for number in range(5_000):
        assert RULES[b"x-%d" % number].passes_up
    assert len(RULES) <= 2_048
    assert RULES[b"X-Task-ID"].is_read
    assert not RULES[b"Host"].passes_up


@pytest.mark.parametrize(
    "name",
    [
        b"Host",
        b"Content-Length",
        b"Expect",
        b"X-Tollgate-Key",
        b"Forwarded",
        b"X-Forwarded-For",
        b"X-Forwarded-Host",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Port",
        b"x-forwarded-prefix",
    ],
)
def test_what_the_gateway_makes_itself_is_dropped(name: bytes) -> None:
    """Framing, our key and the client's address never reach the provider."""
    assert sent([(name, b"x")]) == []


@pytest.mark.parametrize("name", sorted(TAG_HEADERS))
def test_tag_headers_stay_here_unless_the_upstream_wants_them(name: bytes) -> None:
    """Tags are stripped by default and forwarded byte by byte on request."""
    headers = [(name.upper(), b"T1")]
    assert sent(headers) == []
    assert sent(headers, forward_tags=True) == headers


def test_repeated_headers_and_their_order_and_case_stay() -> None:
    """What passes is untouched: duplicates, order, letter case, bytes beyond ASCII."""
    headers = [(b"X-B", b"1"), (b"x-a", b"\xff"), (b"X-B", b"2"), (b"Authorization", b"Bearer sk")]
    assert sent(headers) == headers


def test_a_metered_answer_is_asked_for_unencoded() -> None:
    """The client's Accept-Encoding is replaced by identity when metered, else it passes."""
    headers = [(b"Accept-Encoding", b"gzip"), (b"accept-encoding", b"br"), (b"X", b"1")]
    assert sent(headers, metered=True) == [(b"X", b"1"), (b"accept-encoding", b"identity")]
    assert sent(headers) == headers
    assert sent([], metered=True) == [(b"accept-encoding", b"identity")]


@pytest.mark.parametrize(
    ("value", "rest"),
    [
        (b"task.id=T1", b""),
        (b"task.id=T1,userId=alice", b"userId=alice"),
        (b"userId=alice, task.id=T1;p=1 , sessionId=9;x", b"userId=alice, sessionId=9;x"),
        (b" task.phase = PLAN ,task.complexity=Tiny,task.importance=low", b""),
        (b"Task.ID=T1,a=1", b"a=1"),
        (b"task.id,a=1", b"a=1"),
        (b"task.id;p=1,a=1", b"a=1"),
        (b"task.id=T1,,", b""),
        (b"taskXid=1,task.idx=2,my.task.id=3", b"taskXid=1,task.idx=2,my.task.id=3"),
        (b"task.owner=bob", b"task.owner=bob"),
        (b"k=\xff\xe9%20,task.id=1", b"k=\xff\xe9%20"),
    ],
)
def test_our_baggage_members_stay_here_and_others_pass(value: bytes, rest: bytes) -> None:
    """Exactly the four members that are meant for the gateway are taken out of `baggage`."""
    assert without_task_members(value) == rest
    expected = [(b"Baggage", rest)] if rest else []
    assert sent([(b"Baggage", value)]) == expected
    assert sent([(b"Baggage", value)], forward_tags=True) == [(b"Baggage", value)]


def test_each_of_several_baggage_headers_is_stripped() -> None:
    """A second baggage header cannot carry a tag past the first one."""
    headers = [(b"baggage", b"a=1"), (b"BAGGAGE", b"task.id=T,b=2"), (b"baggage", b"task.id=U")]
    assert sent(headers) == [(b"baggage", b"a=1"), (b"BAGGAGE", b"b=2")]


@pytest.mark.parametrize(
    ("value", "members"),
    [
        (b"", {}),
        (b"novalue", {}),
        (b"task.id=T1", {"task.id": "T1"}),
        (b" Task.Id = T%201 ;meta=x , b=", {"task.id": "T 1", "b": ""}),
        (b"a=1=2", {"a": "1=2"}),
        (b"a=first,a=second", {"a": "first"}),
        (b"a=%C3%A9,b=%zz,c=%,d=%4", {"a": "é", "b": "%zz", "c": "%", "d": "%4"}),
        (b"a=%+1,b=% 1", {"a": "%+1", "b": "% 1"}),
        (b"a=%ff", {"a": "\N{REPLACEMENT CHARACTER}"}),
    ],
)
def test_baggage_members_are_read(value: bytes, members: dict[str, str]) -> None:
    """Names in lower case, values percent-decoded, properties left out; broken escapes stay."""
    assert baggage_members(value) == members


# Towards the client ---------------------------------------------------------------------------


def test_a_provider_cannot_speak_for_the_gateway() -> None:
    """`x-tollgate-*`, `x-budget-*`, cookies and the length are dropped; the rest passes."""
    headers = [
        (b"X-Tollgate-Decision", b"allow"),
        (b"x-budget-status", b"within"),
        (b"X-BUDGET-anything", b"1"),
        (b"Set-Cookie", b"a=b"),
        (b"Content-Length", b"12"),
        (b"Content-Type", b"text/event-stream"),
        (b"x-request-id", b"r1"),
        (b"Retry-After", b"1"),
        (b"x-ratelimit-remaining-tokens", b"3"),
        (b"x-should-retry", b"false"),
    ]
    assert response_headers(headers) == headers[5:]


# What an answer says about the budget ----------------------------------------------------------


def test_no_task_no_budget_lines() -> None:
    """An untagged call's answer says nothing about budgets."""
    assert budget_header_lines(None, balance(1, 0), 0, 0) == ""


def test_budget_lines_of_task_and_phase() -> None:
    """used = S, limit = L + G, remaining = L + G - S - H - A, each line ended by CRLF."""
    task = balance(23_400, settled=15_800, held=1_000, granted=600, line=28_680)
    phase = balance(3_500, settled=200, held=300, granted=0)
    assert budget_header_lines(task, phase, own_hold=2_048, spent_nano_usd=12_345_678).split(
        "\r\n"
    ) == [
        "x-budget-task-tokens-limit: 24000",
        "x-budget-task-tokens-used: 15800",
        "x-budget-task-tokens-remaining: 5152",
        "x-budget-task-cost-usd-used: 0.012345",
        "x-budget-status: within",
        "x-budget-pressure: 66",
        "x-budget-phase-tokens-limit: 3500",
        "x-budget-phase-tokens-used: 200",
        "x-budget-phase-tokens-remaining: 952",
        "",
    ]


def test_remaining_is_never_negative() -> None:
    """A hold larger than what is left says 0, for the task and for the phase."""
    lines = budget_header_lines(balance(100, 90), balance(50, 10), 1_000, 0)
    assert "x-budget-task-tokens-remaining: 0\r\n" in lines
    assert "x-budget-phase-tokens-remaining: 0\r\n" in lines


def test_without_a_phase_only_the_task_is_told() -> None:
    """A call that names no phase gets no phase lines."""
    lines = budget_header_lines(balance(100, 0), None, 0, 0)
    assert "phase" not in lines
    assert lines.endswith("x-budget-pressure: 0\r\n")


@pytest.mark.parametrize(
    ("used", "status", "pressure"),
    [
        (0, "within", 0),
        (100, "within", 100),
        (101, "warning", 101),
        (120, "warning", 120),
        (121, "exceeded", 121),
    ],
)
def test_status_and_pressure(used: int, status: str, pressure: int) -> None:
    """At the limit is within, at the cumulative line a warning, above it exceeded."""
    lines = budget_header_lines(balance(100, used, line=120), None, 0, 0)
    assert f"x-budget-status: {status}\r\n" in lines
    assert f"x-budget-pressure: {pressure}\r\n" in lines


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (0, "0.000000"),
        (999, "0.000000"),
        (1_000, "0.000001"),
        (999_999_999, "0.999999"),
        (5_030_000_000, "5.030000"),
        (2**53, "9007199.254740"),
    ],
)
def test_dollars_have_six_decimals_rounded_down(nano_usd: int, text: str) -> None:
    """A cost is never shown higher than it is."""
    assert format_usd(nano_usd) == text


@pytest.mark.parametrize(
    "name",
    [
        b"X-HTTP-Method-Override",
        b"x-http-method",
        b"X-Method-Override",
        b"X_HTTP_Method_Override",
        b"Transfer_Encoding",
        b"X_Tollgate_Key",
        b"X_Forwarded_For",
    ],
)
def test_what_a_server_could_take_for_another_request(name: bytes) -> None:
    """Another method, or a header of ours in a spelling that many servers take too."""
    assert request_headers([(name, b"POST")], forward_tags=True, metered=False) == []
