"""Where children listen."""

import os
from pathlib import Path

import pytest

from gateway.socket_path import make_socket_folder, socket_path


def test_a_path_that_fits_is_taken() -> None:
    assert socket_path(Path("/var/lib/tollgate/x.sock")) == "/var/lib/tollgate/x.sock"


def test_a_long_one_is_stood_for_by_a_short_one() -> None:
    """The same each time, another for each state folder."""
    long, other = (Path("/") / (name * 60) / "x.sock" for name in ("long", "side"))
    assert socket_path(long) == socket_path(long)
    assert len(socket_path(long)) <= 100
    assert socket_path(long).endswith("/x.sock")
    assert socket_path(long) != socket_path(other)


def test_its_folder_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a" / "b"
    make_socket_folder(str(place / "x.sock"))
    assert place.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    with pytest.raises(PermissionError, match="another user"):
        make_socket_folder(str(place / "x.sock"))
