"""``entrepot replicate rule``: what is kept equal where, how, and whether now."""
