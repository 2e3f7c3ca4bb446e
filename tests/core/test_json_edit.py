"""Edits of a JSON body: named members change, every other byte stays; duplicates are refused."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import BadCall
from gateway.core.json_edit import member_spans, reject_duplicates, with_members

KEYS = (b"model", b"stream", b"stream_options", b"max_tokens", b"n")
SETTINGS = settings(max_examples=60, derandomize=True, deadline=None)

# Random JSON text: nested, with escapes and blanks that no encoder of ours would write.
TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]), st.sampled_from('"\\{}[],:/\n\x00é\U0001f600')
    ),
    max_size=8,
)
NAMES = st.one_of(TEXT, st.sampled_from([key.decode() for key in KEYS]))
BLANK = st.sampled_from(["", "", " ", "\n", "\t \r\n"])
NUMBER = st.sampled_from(["0", "-1", "12", "1.5", "1e9", "123456789012345678901234567890", "-0.0"])


@st.composite
def strings(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXT) -> str:
    """Return a JSON string, its characters raw or escaped as the draw goes."""
    out = ""
    for character in draw(texts):
        way = draw(st.integers(0, 3))
        if way == 0:
            units = character.encode("utf-16-be")
            pairs = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
            out += "".join("\\u" + draw(st.sampled_from([pair, pair.upper()])) for pair in pairs)
        elif way == 1 and character == "/":
            out += "\\/"
        else:
            out += json.dumps(character, ensure_ascii=way == 2)[1:-1]
    return f'"{out}"'


def joined(draw: st.DrawFn, items: list[str]) -> str:
    return ",".join(draw(BLANK) + item + draw(BLANK) for item in items)


@st.composite
def values(draw: st.DrawFn, depth: int = 3) -> str:
    """Return any JSON value as text."""
    kind = draw(st.integers(0, 5 if depth else 3))
    if kind == 4:
        items = [draw(values(depth - 1)) for _ in range(draw(st.integers(0, 3)))]
        return f"[{joined(draw, items)}]"
    if kind == 5:
        return draw(objects(depth - 1))
    return draw([st.sampled_from(["true", "false", "null"]), NUMBER, strings(), strings()][kind])


@st.composite
def objects(draw: st.DrawFn, depth: int = 3) -> str:
    """Return a JSON object as text; no name stands in it twice."""
    names = draw(st.lists(NAMES, max_size=5, unique=True))
    members = [
        f"{draw(strings(st.just(name)))}{draw(BLANK)}:{draw(BLANK)}{draw(values(depth))}"
        for name in names
    ]
    return f"{{{joined(draw, members) or draw(BLANK)}}}"


BODIES = st.builds(lambda a, text, b: (a + text + b).encode(), BLANK, objects(), BLANK)
EDITS = st.dictionaries(
    st.sampled_from(KEYS),
    st.sampled_from([b"1", b'"x"', b'{"include_usage":true}', b"null", b"[1,2]"]),
    max_size=3,
)


@SETTINGS
@given(BODIES, EDITS)
def test_exactly_the_named_members_change(body: bytes, edits: dict[bytes, bytes]) -> None:
    """Read as JSON, the named members have the new values and all others their old ones."""
    expected = {**json.loads(body), **{key.decode(): json.loads(new) for key, new in edits.items()}}
    assert json.loads(with_members(body, edits)) == expected


@SETTINGS
@given(BODIES, EDITS)
def test_every_other_byte_stays(body: bytes, edits: dict[bytes, bytes]) -> None:
    """Put the old values back by place, take out what went in front: the old bytes are there."""
    edited = with_members(body, edits)
    old = {name: body[start:end] for name, start, end in member_spans(body)}
    absent = [key for key in edits if key.decode() not in old]
    front = b"".join(b'"%b":%b,' % (key, edits[key]) for key in absent)
    if not old:
        front = front[:-1]
    brace = body.index(b"{") + 1
    assert edited[:brace] == body[:brace]
    assert edited[brace : brace + len(front)] == front
    edited = edited[:brace] + edited[brace + len(front) :]
    for name, start, end in reversed(member_spans(edited)):
        if name.encode() in edits:
            edited = edited[:start] + old[name] + edited[end:]
    assert edited == body


@SETTINGS
@given(BODIES)
def test_spans_are_the_members(body: bytes) -> None:
    """Every member is found once, by its plain name, with exactly the bytes of its value."""
    found = {name: json.loads(body[start:end]) for name, start, end in member_spans(body)}
    assert found == json.loads(body)
    assert len(member_spans(body)) == len(found)
    for _, start, end in member_spans(body):
        assert body[start:end] == body[start:end].strip()


@SETTINGS
@given(BODIES, st.data())
def test_any_second_member_of_a_name_is_refused(body: bytes, data: st.DataObject) -> None:
    """Wherever it stands, however it is escaped, whatever its value."""
    names = [name for name, _, _ in member_spans(body)]
    name = data.draw(st.sampled_from([*names, "model"]))
    again = f"{data.draw(strings(st.just(name)))}:{data.draw(values(1))}".encode()
    brace = body.index(b"{") + 1
    twice = body[:brace] + again + (b"," if names else b"") + body[brace:]
    if name not in names:
        twice = twice[:brace] + again + b"," + twice[brace:]
    with pytest.raises(BadCall, match="stands twice"):
        reject_duplicates(twice, KEYS)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","\\u006dodel":"b"}',
        b'{"model":"a","\\u006Dodel":"b"}',
        b'{"\\u006d\\u006F\\u0064\\u0065\\u006C":"a","model":"b"}',
        b'{"max_tokens":12,"max_tokens":1}',
        b'{"max_tokens":1,"max_tokens":12}',
        b'{"max_tokens":1,"max_tokens":1.0}',
        b'{"stream":true,"x":{"stream":false},"stream" : false}',
        b'{"x\\/":1,"x/":2}',
        b'{"\\ud83d\\ude00":1,"\xf0\x9f\x98\x80":2}',
        b'{"":1,"":2}',
    ],
)
def test_duplicates_are_refused(body: bytes) -> None:
    """Also hidden by escapes, and with the same value: parsers disagree on which one counts."""
    with pytest.raises(BadCall) as caught:
        reject_duplicates(body, KEYS)
    assert caught.value.code == "invalid_body"
    assert "stands twice" in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b' {\n"model" : "model" , "x":{"model":1,"model2":[{"model":2}]}}\r\n',
        b'{"\\u006dodel":"x"}',
        b'{"x":"\\"model\\":1","model":1}',
        b'{"x":"\\\\","model":"\\\\\\"","n":"}{"}',
        b'{"\\\\u006dodel":1,"model":2}',
        b'{"a\\u0000b":1,"a":2,"ab":3,"\\u0000":4}',
        b'{"\\ud83d\\ude00":1,"x":"\\ud83d\\ude01"}',
        b'{"modelx":1,"xmodel":2,"Metadata":3,"metadata":4}',
        b'{"x":[{"model":1},{"model":1}],"y":"\xff\xfe"}',
    ],
)
def test_what_only_looks_like_a_duplicate_passes(body: bytes) -> None:
    """Same names deeper down, in texts, or one name escaped once are no duplicates."""
    reject_duplicates(body, KEYS)


@pytest.mark.parametrize(
    "body",
    [
        b'{"Model":"b"}',
        b'{"model":"a","MODEL":"b"}',
        b'{"Max_Tokens":1}',
        b'{"\\u004dodel":"b"}',
        '{"\u017ftream":true}'.encode(),
        b'{"max_to\\u212Aens":9}',
        '{"max_to\u212aens":9}'.encode(),
    ],
)
def test_other_spellings_of_a_budgeted_member_are_refused(body: bytes) -> None:
    """Go's parser takes a name in any letter case, also by Unicode folding: no second spelling."""
    with pytest.raises(BadCall, match="must be spelt") as caught:
        reject_duplicates(body, KEYS)
    assert caught.value.code == "invalid_body"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a":1,}',
        b'{"a":NaN}',
        b'{"\xff":1}',
        b'{"\\ud800":1}',
        b"{} {}",
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """A body that cannot be taken apart is the client's fault, and nothing else is raised."""
    with pytest.raises(BadCall) as caught:
        member_spans(body)
    assert caught.value.code == "invalid_body"


def test_a_body_of_very_many_members_is_refused() -> None:
    """Walking members is Python: a body made to keep a worker busy is not walked."""
    members = ",".join(f'"{number}":0' for number in range(1_001))
    with pytest.raises(BadCall, match="more than 1,000 members"):
        member_spans(b"{%b}" % members.encode())
    assert len(member_spans(b"{%b}" % members[: members.rindex(",")].encode())) == 1_000


def test_the_name_in_the_message_is_bounded() -> None:
    """A name of a megabyte is not echoed."""
    name = b'"' + b"k" * 1_000_000 + b'":1'
    with pytest.raises(BadCall) as caught:
        member_spans(b"{" + name + b"," + name + b"}")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("body", "edits", "edited"),
    [
        (b'{"a":1}', {}, b'{"a":1}'),
        (b"{}", {b"n": b"1"}, b'{"n":1}'),
        (b" { } ", {b"n": b"1", b"m": b"2"}, b' {"n":1,"m":2 } '),
        (b' {\n "a":1}', {b"n": b"1"}, b' {"n":1,\n "a":1}'),
        (b'{"n" : null ,"a":1}', {b"n": b"1"}, b'{"n" : 1 ,"a":1}'),
        (b'{"a":{"n":2},"b":"\\"n\\":"}', {b"n": b"1"}, b'{"n":1,"a":{"n":2},"b":"\\"n\\":"}'),
        (b'{"a":["n"],"\\u006e":[1]}', {b"n": b"1"}, b'{"a":["n"],"\\u006e":1}'),
        (b'{"m":0,"n":0}', {b"n": b"1", b"x": b"2"}, b'{"x":2,"m":0,"n":1}'),
    ],
)
def test_edits(body: bytes, edits: dict[bytes, bytes], edited: bytes) -> None:
    """A member that is there changes in its place; one that is not goes in front."""
    assert with_members(body, edits) == edited


def steps_of(body: bytes) -> int:
    """Count the lines that Python runs to take `body` apart and edit it."""
    steps = 0

    def step(_: Any, event: str, __: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        reject_duplicates(body, KEYS)
        with_members(body, {b"max_tokens": b"1"})
    finally:
        sys.settrace(before)
    return steps


def test_the_work_does_not_grow_with_the_values() -> None:
    """A large body is walked member by member, not token by token: the steps stay the same."""
    dense = {"x": [[1, 2, {"a": "\\u006d"}]], "max_tokens": 7, "y": "\x1b"}
    small = json.dumps(dense).encode()
    large = json.dumps({**dense, "x": dense["x"] * 50_000}).encode()  # type: ignore[operator]
    assert len(large) > 1_000_000
    assert steps_of(large) == steps_of(small)
