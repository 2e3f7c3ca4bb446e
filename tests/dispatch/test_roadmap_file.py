"""The roadmap file is replaced in one step, under a lock."""

import fcntl
import os
import threading
from pathlib import Path

import pytest
import yaml

from gateway.dispatch import roadmap_file
from gateway.dispatch.roadmap import RoadmapError
from gateway.dispatch.roadmap_file import add_to_roadmap

TASK = {"id": "FIX-BUDGET-BREACH-T", "budget_breach": {"task": "T", "episode": 1}}


def task(number: int) -> dict[str, object]:
    return {"id": f"FIX-BUDGET-BREACH-{number}", "budget_breach": {"task": number, "episode": 1}}


def ids(file: Path) -> list[str]:
    return [item["id"] for item in yaml.safe_load(file.read_text())["tasks"]]


def test_a_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    file, link = tmp_path / "roadmap.yaml", tmp_path / "link.yaml"
    file.write_text("tasks:\n  - id: A\n")
    file.chmod(0o640)
    link.symlink_to(file)
    assert add_to_roadmap(link, TASK)
    assert not add_to_roadmap(link, TASK)
    assert link.is_symlink()
    assert ids(file) == ["A", "FIX-BUDGET-BREACH-T"]
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("link.yaml", "roadmap.yaml", "roadmap.yaml.lock")
    ]


def test_a_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    assert add_to_roadmap(tmp_path / "new.yaml", TASK)
    assert ids(tmp_path / "new.yaml") == ["FIX-BUDGET-BREACH-T"]


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "roadmap.yaml"
    threads = [threading.Thread(target=add_to_roadmap, args=(file, task(n))) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids(file)) == sorted(f"FIX-BUDGET-BREACH-{number}" for number in range(12))


def test_a_lock_that_is_held_is_told(tmp_path: Path) -> None:
    file = tmp_path / "roadmap.yaml"
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RoadmapError, match="is locked"):
            add_to_roadmap(file, TASK, lock_wait_s=0)
    assert not file.exists()


def test_an_edit_at_the_same_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever edits the file by hand takes no lock."""
    file = tmp_path / "roadmap.yaml"
    file.write_text("tasks:\n  - id: A\n")
    real = roadmap_file.with_task
    edits = ["tasks:\n  - id: A\n  - id: B\n"]

    def edited_meanwhile(text: str, added: roadmap_file.Task) -> str | None:
        if edits:
            file.write_text(edits.pop())
        return real(text, added)

    monkeypatch.setattr(roadmap_file, "with_task", edited_meanwhile)
    assert add_to_roadmap(file, TASK)
    assert ids(file) == ["A", "B", "FIX-BUDGET-BREACH-T"]
    monkeypatch.setattr(
        roadmap_file, "with_task", lambda text, _: file.write_text(f"{text}#") and text + "x"
    )
    with pytest.raises(RoadmapError, match="changes all the time"):
        add_to_roadmap(file, TASK)


@pytest.mark.parametrize("content", [b"tasks: 5\n", b"tasks:\n  - id: \xff\n", b"tasks: [\n"])
def test_a_file_that_takes_no_task_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "roadmap.yaml"
    file.write_bytes(content)
    with pytest.raises(RoadmapError, match="Remedy"):
        add_to_roadmap(file, TASK)
    assert file.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["roadmap.yaml", "roadmap.yaml.lock"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        add_to_roadmap(tmp_path / "nowhere" / "roadmap.yaml", TASK)
