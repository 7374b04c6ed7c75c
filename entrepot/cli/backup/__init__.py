"""``entrepot backup``: vaults, what is in them, and Postgres' part of it."""
