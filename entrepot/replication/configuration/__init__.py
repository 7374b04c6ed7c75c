"""Settings of the buckets of a rule: the same at every site, and never looser than they were."""
