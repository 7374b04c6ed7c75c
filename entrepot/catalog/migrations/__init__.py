"""Alembic's scripts: ``control`` and ``site`` hold the revisions of one kind of catalog each."""
