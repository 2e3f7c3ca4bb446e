"""`docs/requirements.md` is true: the tests that it names exist, and those named by an id stand there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/requirements.md").read_text())
BY_ID = re.compile(
    r"^(?:async )?def (test_(?:SL|OVR|TRK|EC|CFG|PM|ROL|RBK|REP|USE|GW?)\d\w*)\(", re.MULTILINE
)


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
