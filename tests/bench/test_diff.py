"""Keys that were laid are listed like others, and comparisons count them right."""

from pathlib import Path

import pytest

from bench import diff
from bench.data import Dataset
from bench.servers import site
from entrepot.errors import IntegrityError


async def test_laid_keys_are_keys(tmp_path: Path) -> None:
    dataset = Dataset(1_100, 100)
    with site("first", tmp_path) as first, site("second", tmp_path) as second:
        diff.lay(dataset, (first, second), tmp_path)
        for work in diff.WORKS:
            found = await diff.within(work, dataset.count, (first, second))
            assert found["peak_mib"] > 1
        diff.part(dataset, second, tmp_path)
        await diff.within(diff.APART, dataset.count, (first, second))
        with pytest.raises(IntegrityError, match="found others"):
            await diff.within("diff", dataset.count, (first, second))
