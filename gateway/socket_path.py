"""Where a child listens on a unix socket, however long the state folder's path is."""

import os
import tempfile
from hashlib import sha256
from pathlib import Path

_LONGEST = 100  # characters; sun_path holds 108 bytes
_SHORT_FOLDERS = ("/tmp", "/run")  # noqa: S108 - what is made there is private and checked


def socket_path(wanted: Path) -> str:
    """Return the path itself, or a short private one that stands for it if it is too long."""
    path = str(wanted)
    if len(path) <= _LONGEST:
        return path
    digest = sha256(path.encode()).hexdigest()[:16]
    short = f"tollgate-{os.getuid()}-{digest}/{wanted.name}"
    places = [f"{folder}/{short}" for folder in (tempfile.gettempdir(), *_SHORT_FOLDERS)]
    return next(place for place in places if len(place) <= _LONGEST)


def make_socket_folder(path: str) -> None:
    """Make a socket's folder. Raises OSError if it belongs to another user."""
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
