"""Bytes to bytes: how an object is compressed and encrypted, and how it is read again.

Invariant: what is written is what ``docs/format.md`` says, and nothing of an object is released
before it was verified. Nothing in here knows of stores or catalogs. Layer 1.

Words: *plaintext* what the client sent; *stored* what lies in the bucket; *segment* one part of an
upload, encoded; *block* the plaintext in one zstd frame; *frame* the bytes under one tag; *table*
what the footer says of the segments.

The modules are the interface: ``seal`` the keys of a write, ``encode`` and ``decode`` the two
directions, ``offline`` a downloaded object with the tenant's key alone.
"""
