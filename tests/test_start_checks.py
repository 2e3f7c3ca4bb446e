"""Admin tokens at the start: the weak are refused, those with a name are read."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.roles import Role
from gateway.core.errors import TollgateError
from gateway.settings import Settings
from gateway.settings.admin_tokens import weakness
from gateway.start_checks import admin_accesses, admin_token, make_state_folder

GOOD = "kQ7-vN2x-pL9f-Rz4w-Hd8c"


def settings(tmp_path: Path, **admin: Any) -> Settings:
    return Settings.model_validate({"state_dir": tmp_path, "admin": admin})


@pytest.mark.parametrize(
    "token",
    ["", "short", "changeme-changeme-changeme", "aaaaaaaaaaaaaaaaaaaaaaaa", "0123456789abcdef",
     "tollgate-admin-token-secret", "admin-password-2026-x", "test-test-test-test-test",
     "qwertyuiopasdfghjklzxcvbnm", "abcdefghijklmnopqrstuvwxyz", "my-litellm-master-key",
     "1qaz2wsx3edc4rfv5tgb", "zyxwvutsrqponmlkjihgfedcba", "r7Kp2mXq-r7Kp2mXq-r7Kp2mXq"],
)  # fmt: skip
def test_a_weak_token_is_told(token: str) -> None:
    assert weakness(token)


@pytest.mark.parametrize(
    "token", [GOOD, hashlib.sha256(b"x").hexdigest(), "correct horse battery staple"]
)
def test_a_random_token_is_good(token: str) -> None:
    assert weakness(token) == ""


def test_the_gateway_does_not_start_on_a_weak_token(tmp_path: Path) -> None:
    """Neither one of the settings, nor of the file, nor of a name's file; no message repeats it."""
    weak = "changeme-changeme-1"
    file = tmp_path / "admin-token"
    file.write_text(weak)
    named = {"ada": {"role": "viewer", "token_file": str(file)}}
    with pytest.raises(TollgateError, match=r"Remedy: leave admin.token out") as first:
        admin_token(settings(tmp_path, token=weak))
    with pytest.raises(TollgateError, match=r"admin-token: the admin token is easily") as second:
        admin_token(settings(tmp_path))
    with pytest.raises(TollgateError, match=r"admin.tokens.ada.token_file: the admin") as third:
        admin_accesses(settings(tmp_path, tokens=named))
    assert all(weak not in str(raised.value) for raised in (first, second, third))


def test_a_token_with_a_name_is_in_a_file_or_a_digest(tmp_path: Path) -> None:
    file, digest = tmp_path / "ada", hashlib.sha256(GOOD.encode()).hexdigest()
    file.write_text(f"{GOOD}\n")
    tokens = {
        "ada": {"role": "operator", "token_file": str(file)},
        "eye": {"role": "viewer", "sha256": digest},
    }
    ada, eye = admin_accesses(settings(tmp_path, tokens=tokens))
    assert (ada.name, ada.role, ada.sha256) == ("ada", Role.OPERATOR, digest)
    assert (eye.name, eye.role, eye.sha256) == ("eye", Role.VIEWER, digest)
    assert digest not in repr(eye)


@pytest.mark.parametrize(
    "token", ["", "password", "admin123", "Changeme!", "my-token", "litellm-master", "qwertyuiop",
              "password\n", "test test test"]
)  # fmt: skip
def test_the_gateway_does_not_start_on_the_digest_of_a_guess(tmp_path: Path, token: str) -> None:
    digest = hashlib.sha256(token.encode()).hexdigest()
    tokens = {"eye": {"role": "viewer", "sha256": digest}}
    with pytest.raises(TollgateError, match=r"admin.tokens.eye.sha256: .* easily guessed"):
        admin_accesses(settings(tmp_path, tokens=tokens))


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_state_folder_that_cannot_be_made(name: str, tmp_path: Path) -> None:
    """It is told as what it is, by its key, and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(TollgateError, match=r"state_dir: .* cannot be written \(.*Remedy: name"):
        make_state_folder(Settings.model_validate({"state_dir": tmp_path / name}))


def test_a_state_folder_that_takes_no_files() -> None:
    with pytest.raises(TollgateError, match=r"state_dir: /proc/self cannot be written"):
        make_state_folder(Settings.model_validate({"state_dir": "/proc/self"}))


def test_a_state_folder_is_for_nobody_else(tmp_path: Path) -> None:
    """The ledger tells what everybody works on. A folder that is there stays as it is."""
    ours, theirs = tmp_path / "a/state", tmp_path / "shared"
    theirs.mkdir(mode=0o755)
    for folder, mode in ((ours, 0o700), (theirs, 0o755)):
        make_state_folder(Settings.model_validate({"state_dir": folder}))
        assert (folder.stat().st_mode & 0o777, list(folder.iterdir())) == (mode, [])


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    tokens = {"ada": {"role": "operator", "token_file": str(tmp_path / "nothing")}}
    with pytest.raises(TollgateError, match=r"ada.token_file: .*cannot be read.*Remedy: "):
        admin_accesses(settings(tmp_path, tokens=tokens))
