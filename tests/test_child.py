"""Children that end with their parent."""

import ctypes
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from gateway.child import dies_with_parent
from tests.store.valkey_server import is_alive, wait_until

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

PARENT = """
    import subprocess, sys, time
    from gateway.child import dies_with_parent

    child = subprocess.Popen(sys.argv[1:], preexec_fn=dies_with_parent())
    print(child.pid, flush=True)
    time.sleep(600)
"""

# The child asks only when its parent is gone already: too late for a signal.
LATE = """
    import os
    from gateway.child import dies_with_parent

    ask, (ready, tell), parent = dies_with_parent(), os.pipe(), os.getpid()
    if os.fork() == 0:
        os.close(tell)
        os.read(ready, 1)
        while os.getppid() == parent:
            pass
        ask()
        print("still there", flush=True)
"""


def started(program: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *args],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_child_ends_when_its_parent_is_killed() -> None:
    """kill -9 gives the parent no chance to end it itself."""
    with started(PARENT, *SLEEP) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    wait_until(lambda: not is_alive(child), "the child's end")


def test_a_child_whose_parent_died_before_it_could_ask_ends_at_once() -> None:
    """Between fork and exec the parent may be gone already."""
    with started(LATE) as parent:
        out, _ = parent.communicate(timeout=10)
    assert out == ""


def test_it_asks_for_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the child can write its files to the end."""
    prctl = ctypes.CDLL(None).prctl
    ask = dies_with_parent()
    assert ask is not None
    now, me = ctypes.c_int(), os.getpid()
    monkeypatch.setattr(os, "getppid", lambda: me)
    ask()
    prctl(PR_GET_PDEATHSIG, ctypes.byref(now))
    prctl(PR_SET_PDEATHSIG, 0)
    assert now.value == signal.SIGTERM


def test_it_ends_itself_if_it_has_another_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, the parent is another one than the one that was going to fork."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    ask = dies_with_parent()
    assert ask is not None
    ask()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    assert exits == [1]


def test_elsewhere_there_is_no_such_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a child is ended by its parent only."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert dies_with_parent() is None
