"""Real servers on loopback for a laptop: MinIO sites, Postgres, Prefect, supervised as one stack.

The public face is ``entrepot.embedded.stack`` (``up``, ``down``, ``status``, ``info``);
``PostgresServer`` and ``MinioServer`` are single servers for tests. Nothing here imports Prefect,
which runs as child processes.
"""
