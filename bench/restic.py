"""``restic`` as somebody who knows it would run it: a repository and its cache on a local disk."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Measured, run
from entrepot.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Restic:
    """One repository, in ``root``."""

    program: Path
    root: Path

    def make(self) -> None:
        """An empty repository."""
        self.root.mkdir()
        run([str(self.program), "init", "--quiet"], env=self._env)

    def save(self, directory: Path, *, objects: int) -> Measured:
        """A backup of ``directory``; ``IntegrityError`` unless it met so many files."""
        command = [str(self.program), "backup", "--quiet", "--json", str(directory)]
        measured = run(command, env=self._env)
        found = json.loads(measured.stdout.splitlines()[-1])
        if found["total_files_processed"] != objects:
            raise IntegrityError("restic met another number of files", **found)
        return measured

    @property
    def size_bytes(self) -> int:
        """Of all files of the repository."""
        files = (self.root / "repository").rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    @property
    def _env(self) -> dict[str, str]:
        return {
            "HOME": str(self.root),
            "RESTIC_REPOSITORY": str(self.root / "repository"),
            "RESTIC_CACHE_DIR": str(self.root / "cache"),
            "RESTIC_PASSWORD": "bench",
        }


def version(program: Path) -> str:
    """Which one it is."""
    told = subprocess.run([program, "version"], capture_output=True, text=True, check=True, env={})
    return told.stdout.split()[1]
