"""The roadmap file: a task is added under a lock, and the file replaced in one step.

Readers see the file before or after, never in between. The lock, `<file>.lock`, keeps gateways of
one machine apart; an editor does not take it, so a file that changed meanwhile is read anew.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.dispatch.roadmap import RoadmapError, Task, with_task

_LOCK_WAIT_S = 5.0
_LOCK_LOOK_S = 0.05
_MOST_READINGS = 5


def add_to_roadmap(file: Path, task: Task, lock_wait_s: float = _LOCK_WAIT_S) -> bool:
    """Add a task to the file, which is made if need be; return False if it was there already.

    May block for `lock_wait_s`. Raises RoadmapError or OSError; then the file is as it was.
    """
    real = Path(os.path.realpath(file))  # a link stays one
    with _locked(real, lock_wait_s):
        for _ in range(_MOST_READINGS):
            before = _read(real)
            after = with_task(_decoded(before or b""), task)
            if after is None:
                return False
            if _replace(real, before, after.encode()):
                return True
    raise RoadmapError("changes all the time. Remedy: see what writes it.")


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise RoadmapError("is not UTF-8. Remedy: save it as UTF-8.") from None


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


@contextmanager
def _locked(file: Path, wait_s: float) -> Iterator[None]:
    lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RoadmapError("is locked. Remedy: see who holds its .lock.") from None
                time.sleep(_LOCK_LOOK_S)
        yield
    finally:
        os.close(lock)


def _replace(file: Path, before: bytes | None, after: bytes) -> bool:
    """Put the content in place, on disk; False if the file is not what it was."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(handle, "wb") as new:
            new.write(after)
            new.flush()
            os.fchmod(new.fileno(), 0o644 if before is None else file.stat().st_mode & 0o7777)
            os.fsync(new.fileno())
        if _read(file) != before:
            return False
        os.replace(name, file)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    folder = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True
