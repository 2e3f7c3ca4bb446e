"""The journal keeps what the store could not take, whole or not at all, for one reader."""

import asyncio
import os
from pathlib import Path

import pytest

from gateway.store import journal as journal_module
from gateway.store.journal import (
    Backlog,
    Journal,
    JournalFile,
    JournalWatch,
    ReleaseEntry,
    SettleEntry,
)
from gateway.store.redis_store import RedisStore
from tests.store.agent import Agent, settlement


@pytest.fixture
def entry(store: RedisStore, tenant: str) -> SettleEntry:
    """A settlement as the lifecycle makes it."""
    return SettleEntry(settlement(Agent(store, tenant).plan("VERIFY")))


async def test_what_is_kept_comes_back_unchanged(tmp_path: Path, entry: SettleEntry) -> None:
    """Entries of both kinds survive the way through the file, in order."""
    journal = Journal(tmp_path, "w")
    release = ReleaseEntry(entry.settlement.plan)
    journal.append(entry)
    journal.append(release)
    [file] = journal.waiting()
    assert list(file.entries()) == [entry, release]
    file.remove()
    assert list(tmp_path.iterdir()) == []


async def test_nothing_waits_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The folder is made with the first entry, not before."""
    assert Journal(tmp_path / "none", "w").waiting() == []


async def test_a_line_that_a_crash_cut_is_left_out(tmp_path: Path, entry: SettleEntry) -> None:
    """What was not written whole was not kept: its hold expires and is charged."""
    journal = Journal(tmp_path, "w")
    journal.append(entry)
    journal.close()
    with (tmp_path / "w-1.jsonl").open("ab") as file:
        file.write(b'{"type":"settle","settle')
    [left] = Journal(tmp_path, "other").waiting()
    assert list(left.entries()) == [entry]
    left.close()


async def test_a_file_that_is_being_written_is_nobody_else_s(
    tmp_path: Path, entry: SettleEntry
) -> None:
    """A second process takes only files whose writer is gone."""
    writer, reader = Journal(tmp_path, "a"), Journal(tmp_path, "b")
    writer.append(entry)
    assert reader.waiting() == []
    assert JournalFile.lock(tmp_path / "a-1.jsonl") is None
    writer.close()
    [left] = reader.waiting()
    left.remove()


async def test_files_rotate(
    tmp_path: Path, entry: SettleEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file grows without bound; all of them are replayed."""
    monkeypatch.setattr(journal_module, "_MOST_BYTES", 10)
    journal = Journal(tmp_path, "w")
    for _ in range(3):
        journal.append(entry)
    files = journal.waiting()
    assert len(files) == 3
    assert [len(list(file.entries())) for file in files] == [1, 1, 1]
    for file in files:
        file.remove()


async def test_a_full_disk_keeps_no_half_entry(
    tmp_path: Path, entry: SettleEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer hears of it, and earlier entries stay readable."""
    journal = Journal(tmp_path, "w")
    journal.append(entry)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(OSError, match="full"):
        journal.append(entry)
    monkeypatch.undo()
    [file] = journal.waiting()
    assert list(file.entries()) == [entry]
    file.close()


async def test_it_is_synced_soon(tmp_path: Path, entry: SettleEntry) -> None:
    """The disk is asked in batches, off the loop; closing waits for it."""
    journal = Journal(tmp_path, "w")
    journal.append(entry)
    await asyncio.sleep(journal_module._SYNC_S * 2)
    journal.append(entry)
    journal.close()
    assert (tmp_path / "w-1.jsonl").read_bytes().count(b"\n") == 2


async def test_what_waits_is_counted(tmp_path: Path, entry: SettleEntry) -> None:
    """Of all writers, also while they write, after a replay, and after a full disk cut a file."""
    folder = tmp_path / "journal"
    watch = JournalWatch(folder)
    assert watch.look() == Backlog()
    one, other = Journal(folder, "a"), Journal(folder, "b")
    for journal in (one, other, one):
        journal.append(entry)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert watch.look() == watch.look() == Backlog(3, size)
    one.append(entry)
    assert watch.look() == Backlog(4, size // 3 * 4)
    other.close()
    os.truncate(folder / "b-1.jsonl", 0)
    assert watch.look() == Backlog(3, size)
    for file in one.waiting():
        file.remove()
    assert watch.look() == Backlog()
    one.close()
