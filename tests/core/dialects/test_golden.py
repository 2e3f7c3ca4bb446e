"""Every dialect's golden answers: the same usage and the same bytes wherever they are cut.

`tests/golden/<dialect>/<case>/` holds `answer.sse` or `answer.json` as the provider sends it,
`expected.json` what is read of it, and `client.sse` what a client gets where that is another.
Chat completions have tests of their own (`tests/core/test_meter.py`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.dialects.table import WIRE_FORMATS
from gateway.core.identity import Dialect
from gateway.core.meter import JsonMeter, Meter, StreamMeter
from gateway.core.usage import Usage

GOLDEN = Path(__file__).parent.parent.parent / "golden"


@dataclass(frozen=True)
class Case:
    dialect: Dialect
    name: str
    answer: bytes
    client: bytes
    is_stream: bool
    expected: dict[str, Any]

    def meter(self, *, hide_usage: bool = False) -> Meter:
        wire = WIRE_FORMATS[self.dialect]
        return StreamMeter(wire, hide_usage=hide_usage) if self.is_stream else JsonMeter(wire)


def read_case(answer: Path) -> Case:
    other = answer.with_name("client.sse")
    return Case(
        dialect=Dialect(answer.parent.parent.name),
        name=answer.parent.name,
        answer=answer.read_bytes(),
        client=(other if other.exists() else answer).read_bytes(),
        is_stream=answer.suffix == ".sse",
        expected=json.loads((answer.parent / "expected.json").read_text()),
    )


CASES = [
    read_case(path)
    for path in sorted(GOLDEN.glob("*/*/answer.*"))
    if path.parent.parent.name != "openai_chat"
]
every_case = pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.dialect}-{case.name}" for case in CASES]
)


def check(case: Case, meter: Meter, expected: bytes, pieces: list[bytes]) -> None:
    assert b"".join(map(meter.feed, pieces)) + meter.end() == expected
    seen, usage = meter.seen, case.expected["usage"]
    assert seen.reported_usage() == (msgspec.convert(usage, Usage) if usage else None)
    assert "".join(seen.text) == case.expected["text"]
    assert seen.model == case.expected["model"]
    assert (seen.error_seen, seen.is_doubtful) == (
        case.expected["error"],
        case.expected["doubtful"],
    )


@every_case
def test_whole(case: Case) -> None:
    """Usage, text, model and error are read; every byte passes."""
    check(case, case.meter(), case.answer, [case.answer])
    check(case, case.meter(hide_usage=True), case.client, [case.answer])


@pytest.mark.repeats
@every_case
def test_cut_at_every_byte(case: Case) -> None:
    """Wherever the answer is cut in two."""
    for at in range(len(case.answer) + 1):
        pieces = [case.answer[:at], case.answer[at:]]
        check(case, case.meter(), case.answer, pieces)
        check(case, case.meter(hide_usage=True), case.client, pieces)


@every_case
def test_byte_by_byte(case: Case) -> None:
    """One byte at a time."""
    pieces = [bytes([byte]) for byte in case.answer]
    check(case, case.meter(), case.answer, pieces)
    check(case, case.meter(hide_usage=True), case.client, pieces)


def test_every_dialect_has_golden_answers() -> None:
    """Whoever adds a dialect adds them."""
    assert {case.dialect for case in CASES} | {Dialect.OPENAI_CHAT} == set(WIRE_FORMATS)
