"""Where balances live: one Redis/Valkey server, a handful of atomic scripts."""
