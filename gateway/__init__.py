"""Tollgate: a reverse proxy that meters every model call of a task and stops it at its budget.

Start reading at `docs/life-of-a-call.md`, then `lifecycle.py`, `ports.py`, `core/budget.py`.
"""

__version__ = "0.1.0"
