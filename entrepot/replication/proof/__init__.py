"""Whether the sites of a rule hold the same, and evidence of it."""
