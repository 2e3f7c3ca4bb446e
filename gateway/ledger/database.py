"""The ledger's database: SQLite or PostgreSQL, its schema, and who may write it.

SQLite is in WAL mode, so that others read while the writer writes, and synced at each commit: what
is committed may be trimmed from the stream. Exactly one process writes: PostgreSQL grants an
advisory lock that ends with the connection, beside a SQLite file lies a lock file.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Insert, create_engine, event, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from gateway.core.errors import InvalidConfigError, LedgerError
from gateway.ledger.schema import EPOCHS, IDENTITY

_BUSY_MS = 30_000  # how long SQLite waits for another's transaction
_CONNECT_S = 5
_ADVISORY_LOCK = 0x70116A7E  # any number that nobody else uses
HEAD = "head"


def parse_ledger_url(url: str) -> URL:
    """Return a database URL with its driver. Raises InvalidConfigError without repeating it."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _bad("cannot be read") from None
    name = parsed.get_backend_name()
    if name == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if name == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed.set(drivername="sqlite")
    raise _bad(f"{name} with this form is not supported")


def _bad(problem: str) -> InvalidConfigError:
    return InvalidConfigError(
        [
            f"ledger.url: {problem}. Remedy: write postgresql://user:password@host/database, "
            "sqlite:////absolute/path.db, or leave it empty for <state_dir>/ledger.db."
        ]
    )


def open_engine(url: str) -> Engine:
    """Return an engine for a ledger; nothing is connected yet. Raises InvalidConfigError."""
    parsed = parse_ledger_url(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(
            parsed, poolclass=NullPool, connect_args={"connect_timeout": _CONNECT_S}
        )
    path = Path(str(parsed.database))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(
        parsed,
        poolclass=NullPool,
        connect_args={"timeout": _BUSY_MS / 1000, "check_same_thread": False},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # a DB-API connection
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


@contextmanager
def ledger_errors() -> Iterator[None]:
    """Turn errors of the database into LedgerError, in one line and without its parameters."""
    try:
        yield
    except SQLAlchemyError as error:
        cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
        lines = str(cause).strip().splitlines() or [type(error).__name__]
        raise LedgerError(lines[0]) from error


# Schema -------------------------------------------------------------------------------------------


def migrate(connection: Connection, revision: str = HEAD) -> None:
    """Bring the schema to a revision, up or down; `base` is an empty database. Commits.

    One transaction: a writer that is killed meanwhile leaves what was there.
    """
    with _one_transaction(connection):
        config, target = _alembic(connection), revision
        if target == HEAD:
            command.upgrade(config, HEAD)
        else:
            current = schema_revision(connection) or ""
            goes_up = target != "base" and current < target
            (command.upgrade if goes_up else command.downgrade)(config, target)


@contextmanager
def _one_transaction(connection: Connection) -> Iterator[None]:
    """Commit at the end what the block does, or nothing of it.

    Python's sqlite3 begins a transaction before changes of rows, but not of tables.
    """
    if connection.dialect.name != "sqlite":
        yield
        connection.commit()
        return
    connection.commit()
    raw: Any = connection.connection.dbapi_connection
    usual, raw.isolation_level = raw.isolation_level, None
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    finally:
        raw.isolation_level = usual


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "gateway.ledger:migrations")
    config.attributes["connection"] = connection
    return config


def schema_revision(connection: Connection) -> str | None:
    """Return the revision of the schema, None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def require_schema(connection: Connection) -> None:
    """Raise LedgerError if the schema is not the one that this program knows."""
    current, wanted = schema_revision(connection), latest_revision()
    if current != wanted:
        raise LedgerError(
            f"the ledger's schema is {current or 'missing'}, this program needs {wanted}. Remedy: "
            "start the gateway once (its writer upgrades the schema), or update this program."
        )


@contextmanager
def open_ledger(url: str) -> Iterator[Connection]:
    """Connect to a ledger to read. Raises LedgerError for one that is not there or another version.

    The database's own errors are raised as they are.
    """
    parsed = parse_ledger_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        raise LedgerError(
            f"there is no ledger at {parsed.database}. Remedy: start the gateway once, or correct "
            "ledger.url or state_dir."
        )
    with open_engine(url).connect() as connection:
        require_schema(connection)
        yield connection


def latest_revision() -> str:
    """Return the newest revision that this program knows."""
    config = Config()
    config.set_main_option("script_location", "gateway.ledger:migrations")
    return ScriptDirectory.from_config(config).get_current_head() or ""


# Writing ------------------------------------------------------------------------------------------


class WriterConnection:
    """The one connection that writes a ledger; everything on it is behind its lock."""

    def __init__(self, connection: Connection, release: Callable[[], None]) -> None:
        self.connection = connection
        self._release = release

    @classmethod
    def open(cls, engine: Engine) -> "WriterConnection | None":
        """Connect and take the lock; None if another process has it. Raises LedgerError."""
        with ledger_errors():
            release = _lock_file(engine)
            if release is None:
                return None
            try:
                connection = engine.connect()
                if not _advisory_lock(connection):
                    connection.close()
                    return None
            except BaseException:
                release()
                raise
            return cls(connection, release)

    def close(self) -> None:
        """Close, which gives the lock up."""
        try:
            self.connection.close()
        except SQLAlchemyError:
            self.connection.invalidate()
        finally:
            self._release()


def _lock_file(engine: Engine) -> Callable[[], None] | None:
    """Lock the file beside a SQLite database; return what unlocks it, None if it is taken."""
    if engine.dialect.name != "sqlite":
        return lambda: None
    lock = os.open(f"{engine.url.database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lambda: os.close(lock)


def _advisory_lock(connection: Connection) -> bool:
    if connection.dialect.name != "postgresql":
        return True
    taken = connection.scalar(text(f"SELECT pg_try_advisory_lock({_ADVISORY_LOCK})"))
    connection.commit()
    return bool(taken)


def ledger_id(connection: Connection) -> str:
    """Return the ledger's own id, making one the first time. Commits."""
    known = connection.scalar(select(IDENTITY.c.ledger_id))
    if known is None:
        known = secrets.token_hex(8)
        connection.execute(IDENTITY.insert().values(ledger_id=known))
    connection.commit()
    return str(known)


def known_epoch(connection: Connection, tenant: str) -> str | None:
    """Return the epoch of the store's data that the ledger goes with, None if it is new."""
    return connection.scalar(select(EPOCHS.c.epoch).where(EPOCHS.c.tenant == tenant))


def other_tenants(connection: Connection, tenants: Sequence[str]) -> list[str]:
    """Return tenants whose calls are in the ledger beside these; a database is one tenant's."""
    known = connection.scalars(select(EPOCHS.c.tenant).order_by(EPOCHS.c.tenant))
    return [tenant for tenant in known if tenant not in tenants]


def keep_epoch(connection: Connection, tenant: str, epoch: str) -> None:
    """Take note that the ledger goes with the store's data of this epoch. Commits."""
    insert = upsert(connection, EPOCHS).values(tenant=tenant, epoch=epoch)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["tenant"], set_={"epoch": epoch})
    )
    connection.commit()


def size_bytes(connection: Connection) -> int:
    """Return the database's size on disk."""
    if connection.dialect.name == "postgresql":
        size = connection.scalar(text("SELECT pg_database_size(current_database())"))
        connection.commit()
        return int(size or 0)
    path = str(connection.engine.url.database)
    return sum(os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end))


def upsert(connection: Connection, table: object) -> "postgresql.Insert | sqlite.Insert":
    """Return an INSERT that can say what happens ON CONFLICT."""
    make: Callable[[object], Insert] = (
        postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert  # type: ignore[assignment]
    )
    return make(table)  # type: ignore[return-value]
