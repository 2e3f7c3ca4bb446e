"""`docs/requirements.md` is true: the tests that it names exist, and those named by an id stand there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/requirements.md").read_text())
BY_ID = re.compile(
    r"^(?:async )?def (test_(?:SL|OVR|TRK|EC|CFG|PM|ROL|RBK|REP|USE|GW?)\d\w*)\(", re.MULTILINE
)


# What a budget's life has to be and to stand: configuration, calculation, tracking, stop-loss, edge
# cases, failures, overrides, rollout and rollback; and what users of gateways miss.
WANTED = [
    *(f"CFG-{number}" for number in range(1, 11)),
    *(f"CAL-{number}" for number in range(1, 8)),
    *(f"USE-{number}" for number in range(1, 6)),
    *(f"REP-{number}" for number in range(1, 7)),
    *(f"MET-{number}" for number in range(1, 7)),
    *(f"GW-{number}" for number in range(1, 21)),
    *("A1", "A12", "CMP-1", "ERR-1", "parallel admission overshoot", "client disconnect"),
    *("provider reports 0 usage on a non-empty completion", "streaming without usage"),
    *(f"EC{number}" for number in range(1, 24)),
    *(f"PM{number}" for number in range(1, 9)),
    *(f"SL-{number}" for number in range(1, 14)),
    "SL-3b",
    *(f"TRK-{number}" for number in range(1, 8)),
    *("OVR-1", "OVR-2", "ROL-1", "RBK-1", "RBK-2", "RBK-3"),
]


def names_in(file: Path) -> list[str]:
    return re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > 15
    assert [(file, name) for file, name in NAMED if name not in names_in(ROOT / file)] == []


def test_every_test_that_is_named_by_an_id_is_in_the_map() -> None:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    found = {
        (str(file.relative_to(ROOT)), name)
        for file in files
        for name in BY_ID.findall(file.read_text())
    }
    assert found - set(NAMED) == set()


def test_every_case_has_a_row() -> None:
    page = (ROOT / "docs/requirements.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    told = {name.strip() for row in rows for name in row.split(",")}
    assert [name for name in WANTED if name not in told] == []
