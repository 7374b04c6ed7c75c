"""Prefect tasks: each a thin call into the library for one batch of work.

Arguments are names and ranges, never bodies, clients or secrets; blocks are loaded inside.
"""
