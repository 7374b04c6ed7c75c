"""The stack as the tests of managed buckets use it, with a bucket of each kind."""

from collections.abc import Iterator

import pytest

from tests.cli.managed import TENANT, Quick
from tests.running import Running


@pytest.fixture(scope="module")
def made(stack: Running) -> Iterator[Quick]:
    quick = Quick(stack.info)
    quick.typed("tenant", "add", TENANT)
    yield quick
    quick.close()


@pytest.fixture(scope="module")
def plain(made: Quick) -> str:
    """A managed bucket whose objects lie as they came."""
    return made.new_bucket()


@pytest.fixture(scope="module")
def sealed(made: Quick) -> str:
    """A managed bucket whose objects are encrypted, and compressed where it pays."""
    return made.new_bucket("--encrypted", "--compressed")
