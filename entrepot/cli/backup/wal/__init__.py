"""``entrepot backup wal``: WAL into a vault and out of it."""
