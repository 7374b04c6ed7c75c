"""``/api/v1``: rules, status and sweeps of replication for programs, behind bearer tokens."""
