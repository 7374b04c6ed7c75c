"""Replication: pure plans and merges, sweeps over real servers, faults, and killed jobs."""

import pytest

# Helpers outside of test files, where pytest would not explain their assertions by itself.
pytest.register_assert_rewrite("entrepot.testing.contract_tools", "tests.replication.stream.worlds")
