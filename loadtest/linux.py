"""What Linux tells of a process: CPU time, memory, children, cores."""

import os
import platform
import resource
import time
from collections.abc import Iterable
from pathlib import Path

_TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
_PACE_TURNS = 1_000_000
_PARENT, _UTIME, _STIME = 1, 11, 12  # in /proc/PID/stat, counted from behind the name


def cpu_us(pid: int) -> float:
    """User and system time of a process so far, in microseconds, to a tick (10 ms)."""
    fields = _stat(pid)
    return (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_US


def main_thread_ns(pid: int) -> int:
    """Time that the main thread of a process was on a core so far."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


def peak_rss_bytes(pid: int) -> int:
    """The most memory that the process ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no VmHWM for process {pid}")


def children(pid: int) -> dict[int, str]:
    """The children of a process: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if int(_stat(int(entry.name))[_PARENT]) == pid:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = command.decode("utf-8", "replace").strip()
        except OSError:
            continue  # it ended while we looked
    return found


def busy_s() -> float:
    """CPU time that the machine has spent on anything, time stolen by its host included."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, _machine_times()[:8])
    return (user + nice + system + irq + soft + steal) * _TICK_US / 1_000_000


def own_cpu_s() -> float:
    """CPU time of this process and of all its descendants that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def pace_ns() -> float:
    """CPU time of one turn of a fixed loop: how fast the machine is now, whoever slows it down."""
    total, began = 0, time.process_time_ns()
    for turn in range(_PACE_TURNS):
        total += turn
    return (time.process_time_ns() - began) / _PACE_TURNS


def pin(pid: int, cores: Iterable[int]) -> None:
    """Let a process, with all its threads, run on these cores only."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), set(cores))


def own_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def machine() -> str:
    """The machine in one line."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{os.cpu_count()} cores ({models[0] if models else platform.machine()}), "
        f"{platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}"
    )


def _machine_times() -> list[str]:
    return Path("/proc/stat").read_text().splitlines()[0].split()[1:]


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
