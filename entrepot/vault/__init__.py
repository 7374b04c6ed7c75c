"""A backup repository in a bucket: chunks in packs, indexes, snapshots (``docs/format.md``).

Needs nothing but a store and keys: no Postgres, no Prefect.
"""
