"""Run migrations on the connection that `database.migrate` hands over."""

from alembic import context

from gateway.ledger.schema import METADATA

connection = context.config.attributes["connection"]
# SQLite alters a table by making it anew.
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
