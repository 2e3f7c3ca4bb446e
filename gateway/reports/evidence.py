"""Where a task's evidence stands, and how it is written: whole or not at all (REP-6)."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from gateway.core.identity import ID_PATTERN
from gateway.reports.document import as_json
from gateway.reports.markdown import as_markdown, budget_summary
from gateway.reports.report import Report

REPORT_FILE, TWIN_FILE = "verify/budget_report.md", "verify/budget_enforcement.json"
SUMMARY_FILE = "monitor/budget_summary.md"


def evidence_folder(root: Path, task: str) -> Path:
    """Return a task's folder. Raises ValueError for what cannot be a task's id."""
    if not ID_PATTERN.fullmatch(task):
        raise ValueError("not a task's id")
    return root / task


def write_evidence(root: Path, report: Report) -> None:
    """Write a report's files, MONITOR's too once that began or the task is completed.

    Raises OSError; a file is there as it was, or as it is now. Blocks: not for an event loop.
    """
    folder = evidence_folder(root, report.task_id)
    _ignore_in_git(root)
    _write(folder / TWIN_FILE, as_json(report))
    _write(folder / REPORT_FILE, as_markdown(report).encode())
    if not report.mid_task or _has_begun(report, "MONITOR"):
        _write(folder / SUMMARY_FILE, budget_summary(report, f"../{REPORT_FILE}").encode())


def _has_begun(report: Report, phase: str) -> bool:
    return any(one.phase == phase and one.status != "not_started" for one in report.phases)


def _ignore_in_git(root: Path) -> None:
    """Keep reports, which name people, out of repositories, unless somebody decided (PM8)."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError), open(root / ".gitignore", "x") as file:
        file.write(
            "# Reports name people and what they decided: tollgate keeps them internal.\n*\n"
        )


def _write(file: Path, content: bytes) -> None:
    """Replace a file in one step, on disk."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(handle, "wb") as new:
            new.write(content)
            new.flush()
            os.fsync(new.fileno())
        os.replace(name, file)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
