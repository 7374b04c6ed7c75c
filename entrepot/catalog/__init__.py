"""What we know about the stores, in Postgres: one control catalog, and one catalog a site.

Invariant: Prefect orchestrates, these tables decide. Callers see frozen dataclasses and errors of
``entrepot.errors``; connections, rows and vendor errors stay in here. Layer 1.

Words: *catalog* one database; *control* what stands once (sites, tenants, rules, jobs, webhooks);
*site* what stands once a site (buckets, usage).

The modules are the interface, and this one imports none of them: only ``migrate`` needs Alembic.
"""
