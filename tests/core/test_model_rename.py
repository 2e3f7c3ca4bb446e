"""Another model's name in a request: every other byte stays."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.dialects.table import WIRE_FORMATS
from gateway.core.identity import Dialect
from gateway.core.model_rename import renamed
from tests.soak import fuzz

GEMINI = b"/v1beta/models/gemini-2.5-pro:streamGenerateContent"


def in_body(dialect: Dialect, body: bytes, model: str) -> bytes:
    found = renamed(dialect, b"/v1/x", body, model, in_body=True)
    assert found is not None
    assert found[0] == b"/v1/x"
    return found[1]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-5","messages":[]}',
        b' { "messages" : [{"model": "gpt-5"}] ,\n "model"\t: "gpt-5" } ',
        b'{"metadata":{"model":"gpt-5"},"model":"gpt-5","x":1.0e5,"y":"\\u00e9"}',
    ],
)
def test_in_a_body_the_value_alone_changes(body: bytes) -> None:
    """The top-level one, whatever else is spelt like it; white space and numbers stay."""
    at = body.rindex(b'"model"') if body.startswith(b" ") else body.rindex(b'"model":')
    value = body.index(b'"gpt-5"', at)
    expected = body[:value] + b'"mini"' + body[value + len(b'"gpt-5"') :]
    assert in_body(Dialect.OPENAI_CHAT, body, "mini") == expected


@pytest.mark.parametrize(
    ("dialect", "target", "expected"),
    [
        (Dialect.GEMINI_STREAM, GEMINI, b"/v1beta/models/mini:streamGenerateContent"),
        (
            Dialect.GEMINI,
            b"/v1/projects/p/locations/l/publishers/google/models/g-pro:generateContent?k=a:b/c:d",
            b"/v1/projects/p/locations/l/publishers/google/models/mini:generateContent?k=a:b/c:d",
        ),
        (
            Dialect.OPENAI_CHAT,
            b"/openai/deployments/big/chat/completions?api-version=2024/deployments/big",
            b"/openai/deployments/mini/chat/completions?api-version=2024/deployments/big",
        ),
        (
            Dialect.OPENAI_COMPLETIONS,
            b"/v1/engines/big/completions",
            b"/v1/engines/mini/completions",
        ),
    ],
)
def test_in_a_path_the_name_alone_changes(dialect: Dialect, target: bytes, expected: bytes) -> None:
    """Neither the query nor the body."""
    body = b'{"contents": [], "model_": "big"}'
    assert renamed(dialect, target, body, "mini", in_body=False) == (expected, body)


def test_both_names_of_a_deployment_change() -> None:
    """Whichever of them the server goes by, it is the same model."""
    target, body = b"/openai/deployments/big/chat/completions", b'{"model": "big"}'
    assert renamed(Dialect.OPENAI_CHAT, target, body, "mini", in_body=True) == (
        b"/openai/deployments/mini/chat/completions",
        b'{"model": "mini"}',
    )


def test_a_name_is_quoted_in_a_path() -> None:
    """It cannot become another path or a query."""
    found = renamed(Dialect.GEMINI, GEMINI, b"{}", "a/b?c:d\\1", in_body=False)
    assert found == (b"/v1beta/models/a%2Fb%3Fc%3Ad%5C1:streamGenerateContent", b"{}")


@pytest.mark.parametrize(
    ("dialect", "target", "body"),
    [
        (Dialect.OPENAI_AUDIO, b"/v1/audio/transcriptions", b"--b\r\nContent-Disposition: x"),
        (Dialect.GEMINI, b"/v1beta/models/gemini%3AgenerateContent", b"{}"),
        (Dialect.OPENAI_CHAT, b"/openai/%64eployments/big/chat/completions", b'{"model": "big"}'),
    ],
)
def test_where_the_name_cannot_be_told_nothing_is_renamed(
    dialect: Dialect, target: bytes, body: bytes
) -> None:
    """Forms, and paths that spell it oddly."""
    assert renamed(dialect, target, body, "mini", in_body=True) is None


@fuzz(60)
@given(
    model=st.text(min_size=1, max_size=40),
    cheaper=st.from_regex(r"[a-z0-9][!-~]{0,30}", fullmatch=True),
    others=st.dictionaries(
        st.text(max_size=9).filter(lambda name: name.casefold() != "model"),
        st.recursive(st.none() | st.integers() | st.text(), st.lists),
        max_size=4,
    ),
    place=st.integers(0, 4),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_whatever_the_body_it_is_the_same_but_for_the_model(
    model: str,
    cheaper: str,
    others: dict[str, object],
    place: int,
    ascii_only: bool,
    indent: int | None,
) -> None:
    """Byte for byte, and it reads back as the other model."""
    items = [*others.items()]
    items.insert(place, ("model", model))

    def written(name: str) -> bytes:
        values = {key: name if key == "model" else value for key, value in items}
        return json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode(
            "utf-8", "surrogatepass"
        )

    body = written("<here>")
    front, _, behind = body.partition(b'"<here>"')
    said = json.dumps(model, ensure_ascii=ascii_only).encode("utf-8")
    edited = in_body(Dialect.OPENAI_CHAT, front + said + behind, cheaper)
    assert edited.startswith(front)
    assert edited.endswith(behind)
    assert json.loads(edited[len(front) : len(edited) - len(behind)]) == cheaper


@pytest.mark.parametrize("dialect", [Dialect.OPENAI_CHAT, Dialect.ANTHROPIC_MESSAGES])
def test_the_renamed_request_asks_for_the_other_model(dialect: Dialect) -> None:
    """By its own reader."""
    body = b'{"model": "big", "max_tokens": 5, "messages": []}'
    asked = WIRE_FORMATS[dialect].read(in_body(dialect, body, "mini"), b"/v1/x")
    assert (asked.model, asked.output_limit) == ("mini", 5)
