"""A table as a file: whole, typed, of a span of time."""

import csv
import json
from pathlib import Path

import pytest
from pyarrow import parquet
from sqlalchemy import Connection, insert

from gateway.ledger.export import export
from gateway.ledger.schema import CALLS

ROWS = [
    {
        "tenant": "default",
        "call_id": f"c-{at}",
        "state": "settled",
        "number": at,
        "task": 'T,"1"',
        "started_ms": at,
        "at_ms": at,
        "tokens": 1 << 40,
        "stream": True,
        "images": at,
        "terms": "flex",
        "task_latency_ms": 0,
        "phase_latency_ms": 0,
    }
    for at in range(5)
]


@pytest.fixture
def filled(ledger: Connection) -> Connection:
    ledger.execute(insert(CALLS), ROWS)
    ledger.commit()
    return ledger


def test_json_lines(filled: Connection, tmp_path: Path) -> None:
    """One object a line, nulls and all."""
    file = tmp_path / "f"
    assert export(filled, "default", "calls", "jsonl", file, since_ms=1, until_ms=4) == 3
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["call_id"] for line in lines] == ["c-1", "c-2", "c-3"]
    assert (lines[0]["tokens"], lines[0]["stream"], lines[0]["model"]) == (1 << 40, True, None)
    assert (lines[0]["images"], lines[0]["terms"], lines[0]["seconds"]) == (1, "flex", None)


def test_csv(filled: Connection, tmp_path: Path) -> None:
    """With a head; what needs quotes has them."""
    file = tmp_path / "f"
    assert export(filled, "default", "calls", "csv", file) == 5
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert rows[4]["task"] == 'T,"1"'
    assert list(rows[0]) == [column.name for column in CALLS.c]
    assert (rows[4]["images"], rows[4]["terms"], rows[4]["seconds"]) == ("4", "flex", "")


def test_parquet(filled: Connection, tmp_path: Path) -> None:
    """Integers stay integers, flags flags."""
    file = tmp_path / "f"
    assert export(filled, "default", "calls", "parquet", file) == 5
    table = parquet.read_table(file)
    assert table["tokens"].to_pylist() == [1 << 40] * 5
    assert str(table.schema.field("stream").type) == "bool"
    assert table["images"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["terms"].to_pylist() == ["flex"] * 5


def test_an_empty_table_and_a_file_that_cannot_be(filled: Connection, tmp_path: Path) -> None:
    """Nothing is left of what failed."""
    assert export(filled, "default", "audit", "parquet", tmp_path / "f") == 0
    with pytest.raises(FileNotFoundError):
        export(filled, "default", "calls", "csv", tmp_path / "no" / "f")
    assert [path.name for path in tmp_path.glob("*.part")] == []
