"""``entrepot keys``: the keys that tenants' objects are encrypted with, and the recovery kit."""
