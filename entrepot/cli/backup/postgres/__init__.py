"""``entrepot backup postgres``: base backups, dumps, restores."""
