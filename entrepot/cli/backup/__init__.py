"""``entrepot backup``."""
