"""How many tasks a gateway key may begin: within an hour, and open at a time."""

from gateway.core.keys import TaskCaps
from gateway.ports import TooManyTasks
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.scripts import load_script


async def claim_task(
    connection: StoreConnection,
    names: TenantKeys,
    task: str,
    key_id: str,
    caps: TaskCaps,
    *,
    now_ms: str = "",
) -> None:
    """Take note that the key begins a task. Raises TooManyTasks, StoreError.

    The set of the tasks that it has begun is read first: a script names all keys that it reads.
    """
    begun: list[str] = await connection.execute("ZRANGE", names.begun(key_id), 0, -1)
    reply = await connection.run(
        load_script("claim_task"),
        [names.clock, names.begun(key_id), *map(names.task, begun)],
        [
            *(now_ms, task),
            "" if caps.per_hour is None else caps.per_hour,
            "" if caps.open is None else caps.open,
            *begun,
        ],
    )
    if reply[0] == "hour":
        raise TooManyTasks(
            "velocity_exceeded",
            f"The gateway key {key_id} has begun {caps.per_hour:,} tasks within an hour, the most "
            f"it may; task {task} is not begun. Go on with one of them, or ask an operator.",
        )
    if reply[0] == "open":
        raise TooManyTasks(
            "spend_limit_exceeded",
            f"The gateway key {key_id} has {caps.open:,} open tasks, the most it may; task {task} "
            "is not begun. Go on with one of them, or have an operator complete some.",
        )
