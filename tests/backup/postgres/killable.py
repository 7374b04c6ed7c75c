"""Pushes of WAL that die at a chosen step: ``python -m tests.backup.postgres.killable < jobs``.

As ``tests.objects.killable``: settings in the first line, then a job a line, each in a fork.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from entrepot.backup.postgres.archive import WalArchive
from entrepot.store.s3 import S3Store
from entrepot.vault.place import VaultPlace
from entrepot.vault.repository import Vault
from tests.backup.postgres.worlds import small_segment
from tests.objects.killable import SteppedStore, Steps, fork
from tests.objects.worlds import key_ring


async def _run(where: dict[str, str], job: dict[str, Any]) -> dict[str, Any]:
    async def end_ourselves() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    steps = Steps(end_ourselves)
    bare = S3Store(
        endpoint=where["endpoint"],
        access_key=where["access_key"],
        secret_key=SecretStr(where["secret_key"]),
    )
    ring = key_ring(Path(where["keys"]))
    try:
        place = VaultPlace(SteppedStore(bare, steps), where["bucket"])
        archive = WalArchive(await Vault.open(place, ring), job["cluster"])
        steps.arm(job["at"])
        is_new = await archive.push(job["name"], small_segment(job["name"]))
    finally:
        await ring.close()
        await bare.close()
    return {"points": steps.passed, "new": is_new}


def main() -> None:
    """Read settings and jobs from standard input, one a line."""
    where = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        fork(_run(where, json.loads(line)))


if __name__ == "__main__":
    main()
