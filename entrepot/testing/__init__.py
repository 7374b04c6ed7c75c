"""Contract suites and faults: what the tests of this product, and of its plugins, stand on."""
