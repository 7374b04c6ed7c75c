"""Entrepot: S3 object stores kept replicated, accounted for, backed up and restorable.

The layers, lowest first (tests/test_architecture.py holds them):
errors, units, clock, config, metrics, log · codec, store, catalog · the domains
(replication, quota, ...) · the services · gateway, embedded, testing · cli.
"""

__version__ = "0.1.0"
