"""Revisions of a site catalog."""
