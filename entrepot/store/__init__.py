"""Where bytes live: ``protocol`` is the specification, its neighbours are the backends.

``memory`` and ``local`` need no server, ``s3`` speaks to any S3 endpoint, ``retry`` wraps any of
them with the same protocol.
"""
