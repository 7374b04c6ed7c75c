"""``entrepot replicate``: rules, sweeps of them, and what they come to."""
