"""Reading tasks: what stands in their hashes, as values. Nothing here changes anything.

An override may have run out since the limits were last put into the hash: then they are computed
anew for the reader, and the next call's reserve puts them in force (`store/limits.py`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import batched
from typing import Any, NamedTuple

import msgspec

from gateway.core.budget import (
    BreachStatus,
    Dimension,
    PhaseBudget,
    TaskLimits,
    breach_status,
    crossed_levels,
    percent,
)
from gateway.core.decision import remediation_task
from gateway.core.overrides import Override, limits_in_force
from gateway.core.phases import WorkPhase
from gateway.ports import TaskFacts
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys, facts_from_text, limit_fields
from gateway.store.limits import UnknownTask, decode_override, server_ms
