"""When the files that rules are made of have changed."""

from pathlib import Path

from gateway.settings import Settings

Signature = tuple[tuple[str, int, int], ...]
"""Of each watched file: path, change in nanoseconds, bytes; 0 and 0 for one that is not there."""


def file_signature(settings: Settings) -> Signature:
    """Return what tells one state of the files from another: budgets, prices, policies, roadmap."""
    files = [settings.budgets.file, settings.prices.file]
    files += sorted(settings.policies.dir.glob("*.yaml"))
    files += [settings.tasks.roadmap_path] if settings.tasks.roadmap_path else []
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except OSError:
        return str(file), 0, 0
    return str(file), stat.st_mtime_ns, stat.st_size
