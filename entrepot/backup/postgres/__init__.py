"""Postgres in a vault: its WAL as it is written, base backups, dumps, and a cluster at any time."""
