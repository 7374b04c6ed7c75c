"""Backup and restore of buckets and of Postgres, through vaults."""
