"""Ends the servers of a benchmark that was killed.

    python -m bench.reaper DIRECTORY < a pipe that the benchmark holds open

The pipe ends with the benchmark, however that ends. Where it did not say goodbye before, whatever
server has its data below the directory is ended, as its kind wants to be stopped, and the directory
is removed.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entrepot.embedded import stack
from entrepot.embedded.process import end_leftovers
from entrepot.errors import SetupError

_GOODBYE = b"goodbye"


@contextmanager
def watched(root: Path) -> Iterator[None]:
    """While the body runs, servers below ``root`` do not outlive this process."""
    reader, writer = os.pipe()  # not inherited: children of ours must not hold it open
    try:
        reaper = subprocess.Popen(
            [sys.executable, "-m", "bench.reaper", str(root)],
            stdin=reader,
            start_new_session=True,  # an interrupt at the terminal is for the benchmark
        )
    finally:
        os.close(reader)
    try:
        yield
    finally:
        os.write(writer, _GOODBYE)
        os.close(writer)
        reaper.wait()


def main() -> None:
    """Wait for the end of the pipe, then clean up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    root = Path(sys.argv[1])
    if sys.stdin.buffer.read() == _GOODBYE:
        return
    for directory in sorted(root.glob("*")):
        try:
            stack.down(directory)
        except SetupError:  # no stack, but perhaps one server
            end_leftovers(directory)
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
