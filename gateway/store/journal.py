"""The journal: what the store could not take and calls are charged by, on disk until it can.

One folder, files of one writer each, a JSON entry a line. A writer locks its file, so that whoever
finds an unlocked one knows that its writer is gone and may replay it. Replaying is harmless: every
entry is idempotent by its call id for as long as the store keeps tombstones.

An entry has reached the kernel when `append` returns, so it survives the process; the disk is
synced in batches, in a thread.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.core.call_facts import NO_OUTCOME, CallOutcome
from gateway.ports import BackgroundCall, ReservePlan, Settlement

_MOST_BYTES = 8 * 1024 * 1024
_SYNC_S = 0.05
_READ_BYTES = 1 << 20


class SettleEntry(msgspec.Struct, tag="settle"):
    """A settlement that is still to be made."""

    settlement: Settlement


class ReleaseEntry(msgspec.Struct, tag="release"):
    """A hold that is still to be given back."""

    plan: ReservePlan
    outcome: CallOutcome = NO_OUTCOME


class RememberEntry(msgspec.Struct, tag="remember"):
    """Whose an answer in the background is, which is still to be remembered."""

    tenant: str
    response_id: str
    background: BackgroundCall


Entry = SettleEntry | ReleaseEntry | RememberEntry
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


class JournalFile:
    """One file, locked by who reads or writes it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def lock(cls, path: Path) -> "JournalFile | None":
        """Return the file, or None if somebody else has it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    @property
    def size(self) -> int:
        """Return the file's length in bytes."""
        return os.fstat(self._descriptor).st_size

    def append(self, entry: Entry) -> None:
        """Write an entry whole. Raises OSError (a full disk), then nothing of it stays."""
        line = msgspec.json.encode(entry) + b"\n"
        before = self.size
        written = os.write(self._descriptor, line)
        if written != len(line):
            os.ftruncate(self._descriptor, before)
            raise OSError("the journal's disk is full")

    def sync(self) -> None:
        """Wait until the disk has everything."""
        os.fsync(self._descriptor)

    def entries(self) -> Iterator[Entry]:
        """Yield the entries; a last line that was cut by a crash is left out."""
        with self.path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield _decoder.decode(line)

    def set_aside(self, entry: Entry) -> None:
        """Keep an entry that the store refuses for good, for a person to look at."""
        with self.path.with_suffix(".rejected").open("ab") as rejected:
            rejected.write(msgspec.json.encode(entry) + b"\n")

    def remove(self) -> None:
        """Delete the file and give up its lock."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def close(self) -> None:
        """Give up the lock; whoever takes it next goes on."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the journals of all processes: settlements and releases, and their bytes."""

    entries: int = 0
    size_bytes: int = 0


class JournalWatch:
    """Counts what waits under a folder, reading of each file only what is new since last time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counted: dict[Path, Backlog] = {}

    def look(self) -> Backlog:
        """Return what waits now. Reads files: not for the event loop."""
        paths = list(self._folder.glob("*.jsonl"))
        self._counted = {path: self._count(path) for path in paths}
        known = self._counted.values()
        return Backlog(sum(each.entries for each in known), sum(each.size_bytes for each in known))

    def _count(self, path: Path) -> Backlog:
        before = self._counted.get(path, Backlog())
        try:
            with path.open("rb") as file:
                if before.size_bytes > os.fstat(file.fileno()).st_size:  # what a full disk cut off
                    before = Backlog()
                file.seek(before.size_bytes)
                entries, size_bytes = before.entries, before.size_bytes
                while piece := file.read(_READ_BYTES):
                    entries, size_bytes = entries + piece.count(b"\n"), size_bytes + len(piece)
        except FileNotFoundError:  # replayed meanwhile
            return Backlog()
        return Backlog(entries, size_bytes)


class Journal:
    """The journal of one process: appends to its own file, replays all files that nobody has."""

    def __init__(self, folder: Path, writer: str) -> None:
        self._folder = folder
        self._writer = writer
        self._number = 0
        self._current: JournalFile | None = None
        self._sync_due: asyncio.TimerHandle | None = None
        self._syncing: asyncio.Future[None] | None = None

    def append(self, entry: Entry) -> None:
        """Keep an entry. Raises OSError if it cannot be kept."""
        current = self._current
        if current is None or current.size > _MOST_BYTES:
            current = self._next_file()
        current.append(entry)
        if self._sync_due is None:
            loop = asyncio.get_running_loop()
            self._sync_due = loop.call_later(_SYNC_S, self._start_sync, current)

    def _next_file(self) -> JournalFile:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._current is not None:
            self._current.close()
        self._number += 1
        path = self._folder / f"{self._writer}-{self._number}.jsonl"
        opened = JournalFile.lock(path)
        if opened is None:
            raise OSError(f"{path} is in use")
        self._current = opened
        return opened

    def _start_sync(self, current: JournalFile) -> None:
        self._sync_due = None
        if current is self._current:
            loop = asyncio.get_running_loop()
            self._syncing = loop.run_in_executor(None, current.sync)

    def waiting(self) -> list[JournalFile]:
        """Return the files to replay: our own, and those whose writer is gone; all are locked."""
        current, self._current = self._current, None
        if not self._folder.is_dir():
            return []
        files = [current] if current is not None else []
        mine = current.path if current is not None else None
        for path in sorted(self._folder.glob("*.jsonl")):
            taken = None if path == mine else JournalFile.lock(path)
            if taken is not None:
                files.append(taken)
        return files

    def close(self) -> None:
        """Leave what is waiting for the next start."""
        if self._sync_due is not None:
            self._sync_due.cancel()
        if self._current is not None:
            self._current.sync()
            self._current.close()
            self._current = None
