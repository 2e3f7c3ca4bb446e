"""Files of a task's evidence: whole or not at all, and nowhere else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.reports.building import build_report
from gateway.reports.evidence import evidence_folder, write_evidence

REPORT = build_report("T", None, None, 1_793_612_700_000)


def files(root: Path) -> list[str]:
    return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())


def test_REP1_REP4_REP5_what_is_written(tmp_path: Path) -> None:
    """MONITOR's evidence once the task is completed, with a link that leads to the report."""
    write_evidence(tmp_path, REPORT)
    assert files(tmp_path) == [
        ".gitignore",
        "T/verify/budget_enforcement.json",
        "T/verify/budget_report.md",
    ]
    write_evidence(tmp_path, replace(REPORT, mid_task=False))
    summary = tmp_path / "T/monitor/budget_summary.md"
    assert "(../verify/budget_report.md)" in summary.read_text()
    assert (summary.parent / "../verify/budget_report.md").is_file()
    twin = json.loads((tmp_path / "T/verify/budget_enforcement.json").read_text())
    assert twin["mid_task"] is False


@pytest.mark.parametrize("task", ["../T", "a/b", "", ".", "..", ".hidden", "T\n", "-x", "a" * 129])
def test_REP6_an_id_is_never_a_path(tmp_path: Path, task: str) -> None:
    root = tmp_path / "evidence"
    with pytest.raises(ValueError, match="task's id"):
        write_evidence(root, replace(REPORT, task_id=task))
    assert list(tmp_path.iterdir()) == []
    assert evidence_folder(root, "T-1.x_y") == root / "T-1.x_y"


def test_REP6_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_evidence(tmp_path, REPORT)
    report, before = tmp_path / "T/verify/budget_report.md", files(tmp_path)
    report.unlink()
    report.mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError):
        write_evidence(tmp_path, REPORT)
    report.rmdir()
    write_evidence(tmp_path, REPORT)
    assert files(tmp_path) == before


def test_PM8_evidence_stays_out_of_repositories(tmp_path: Path) -> None:
    """Unless somebody decided otherwise: their .gitignore is left alone."""
    write_evidence(tmp_path, REPORT)
    ignore = tmp_path / ".gitignore"
    assert "\n*\n" in ignore.read_text()
    ignore.write_text("!*\n")
    write_evidence(tmp_path, REPORT)
    assert ignore.read_text() == "!*\n"
    assert (tmp_path / "T/verify").stat().st_mode & 0o077 == 0
    assert (tmp_path / "T/verify/budget_report.md").stat().st_mode & 0o077 == 0
