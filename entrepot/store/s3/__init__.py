"""The S3 backend: a thin signed client over aiohttp (docs/decisions.md says why).

``sign`` signature version 4, ``http`` one pooled connection and its errors, ``listing`` pages of
XML as comparable tokens, ``documents`` all other XML; ``buckets``, ``uploads``, ``locks`` and
``store`` the verbs.
"""

from entrepot.store.s3.store import S3Store

__all__ = ["S3Store"]
