"""The one bucket of a site that is ours, by its name."""

PREFIX = "entrepot-internal-"


def internal_bucket(site: str) -> str:
    """Its name; no client's bucket can have it, as names that start so are refused."""
    return f"{PREFIX}{site}"[:63].rstrip("-.")
