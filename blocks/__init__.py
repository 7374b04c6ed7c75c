"""Prefect blocks: stored endpoints, catalogs and rules, with their secrets encrypted by Prefect.

Blocks are loaded inside a flow or task, never at import (loading is a call to the server).
"""

from blocks.catalog import CatalogBlock
from blocks.rule import ReplicationRule
from blocks.s3_site import S3Site

__all__ = ["CatalogBlock", "ReplicationRule", "S3Site"]
