"""``entrepot restore``."""
