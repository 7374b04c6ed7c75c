"""Stores: one contract over every backend, and what each promises beyond it."""

import pytest

# The suite lives in the library, where pytest would not explain its assertions by itself.
for _part in ("contract_tools", "object_contract", "history_contract", "bucket_contract"):
    pytest.register_assert_rewrite(f"entrepot.testing.{_part}")
