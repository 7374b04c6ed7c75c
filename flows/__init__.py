"""Prefect flows: one DAG a file."""
