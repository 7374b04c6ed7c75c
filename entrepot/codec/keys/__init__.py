"""Keys: a root key wraps numbered tenant keys, which lie wrapped in the files of a ring.

``ring`` hands keys out, ``root`` is what wraps them (``local``, ``vault``, ``kms``), ``kit`` is the
copy in the safe, ``open`` makes all of it from the settings. ``docs/keys.md`` has the formats.
"""
