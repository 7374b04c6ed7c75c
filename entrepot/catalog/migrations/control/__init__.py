"""Revisions of the control catalog."""
