"""A ring that several processes share, and processes that are killed in the middle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing, KeyState
from entrepot.errors import PermanentError
from tests.codec.keys.tools import all_keys
from tests.sources import ROOT

WORKERS = 4


class Bench:
    """A ring with keys 1 and 2 of ``acme`` and 1 of ``other``, and two root keys."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory, self.out = home / "keys", home / "out"
        self.root_file, self.new_root_file = home / "root.key", home / "new.key"
        self.root = LocalRoot.create_file(self.root_file)
        self.new_root = LocalRoot.create_file(self.new_root_file)

    async def fill(self) -> dict[tuple[str, int], bytes]:
        ring = KeyRing(self.directory, self.root)
        await ring.rotate("acme")
        await ring.rotate("acme")
        await ring.current("other")
        return await all_keys(ring)

    def worker(self, *arguments: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.codec.keys.worker", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def together(self, verb: str, *arguments: object) -> list[str]:
        """What several workers print that start at the same moment."""
        workers = [
            self.worker(verb, self.directory, self.root_file, *arguments) for _ in range(WORKERS)
        ]
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        printed = [worker.communicate(timeout=120)[0] for worker in workers]
        assert {worker.returncode for worker in workers} == {0}
        return printed

    def killed(self, verb: str) -> list[Path]:
        """Copies of the ring, each left by a process that was killed one step later."""
        self.out.mkdir()
        places = (self.directory, self.out, self.root_file, self.new_root_file)
        worker = self.worker("killed", verb, *places)
        printed, _ = worker.communicate(timeout=240)
        assert worker.returncode == 0
        assert int(printed) > 5, "too few steps to be the whole of it"
        return [self.out / str(n) for n in range(1, int(printed) + 1)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_rotations_of_several_processes_never_share_a_number(bench: Bench) -> None:
    printed = bench.together("rotate", "acme", 10)
    keys = [tuple(key) for each in printed for key in json.loads(each)]
    assert sorted(number for number, _ in keys) == list(range(1, WORKERS * 10 + 1))
    assert len({secret for _, secret in keys}) == WORKERS * 10
    ring = KeyRing(bench.directory, bench.root)
    assert len(await all_keys(ring)) == WORKERS * 10


async def test_the_first_use_by_several_processes_makes_one_key(bench: Bench) -> None:
    printed = bench.together("first", "acme")
    assert len(set(printed)) == 1
    assert json.loads(printed[0])[0] == 1
    assert [info.number for info in KeyRing(bench.directory, bench.root).describe("acme")] == [1]


@pytest.mark.parametrize("verb", ["first", "rotate"])
async def test_a_killed_rotation_leaves_a_whole_ring(bench: Bench, verb: str) -> None:
    before = await bench.fill()
    tenant, number = ("new", 1) if verb == "first" else ("acme", 3)
    added = []
    for copy in bench.killed(verb):
        ring = KeyRing(copy, bench.root, create=False)
        left = await all_keys(ring)
        assert {name: left[name] for name in before} == before
        assert set(left) - set(before) <= {(tenant, number)}
        added.append(len(left) - len(before))
        key = await ring.rotate(tenant)
        assert key.number == number + added[-1]
        assert await KeyRing(copy, bench.root).current(tenant) == key
    assert sorted(added) == added, "once it is there, it stays there"
    assert (added[0], added[-1]) == (0, 1)


async def test_a_killed_rewrap_is_run_again_to_the_same_end(bench: Bench) -> None:
    before = await bench.fill()
    moved = []
    for copy in bench.killed("rewrap"):
        ring = KeyRing(copy, bench.root, create=False)
        roots = [info.root for tenant in ring.tenants() for info in ring.describe(tenant)]
        assert set(roots) <= {bench.root.name, bench.new_root.name}
        moved.append(roots.count(bench.new_root.name))
        assert await ring.rewrap(bench.new_root) == len(before) - moved[-1]
        assert await all_keys(KeyRing(copy, bench.new_root, create=False)) == before
    assert sorted(moved) == moved
    assert set(moved) == {0, 1, 2, 3}


@pytest.mark.parametrize(("verb", "numbers"), [("shred-key", {1}), ("shred-tenant", {1, 2})])
async def test_a_killed_shred_is_in_force_or_not_and_finished_by_the_next(
    bench: Bench, verb: str, numbers: set[int]
) -> None:
    before = await bench.fill()
    gone = []
    for copy in bench.killed(verb):
        ring = KeyRing(copy, bench.root, create=False)
        shown = ring.describe("acme")
        gone.append({info.number for info in shown if info.state is KeyState.SHREDDED})
        assert gone[-1] in (set(), numbers)
        await ring.shred("acme", number=1 if verb == "shred-key" else None)
        after = KeyRing(copy, bench.root, create=False)
        rest = {name: key for name, key in before.items() if name[1] not in numbers}
        rest |= {("other", 1): before["other", 1]}
        assert await all_keys(after) == rest
        files = {path.name for path in (copy / "tenants" / "acme").glob("*.json*")}
        assert files == {f"{number}.json" for tenant, number in rest if tenant == "acme"}
        with pytest.raises(PermanentError, match="shredded"):
            await after.get("acme", 1)
    assert gone[0] == set()
    assert gone[-1] == numbers
