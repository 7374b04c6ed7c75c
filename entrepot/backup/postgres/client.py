"""What Postgres runs for each file of WAL: asks the helper at a socket, and ends.

    python client.py SOCKET push PATH
    python client.py SOCKET fetch NAME PATH

Standard library only, and a file that runs by itself: Postgres may run as a user who cannot read
our installation, and starts this for each segment.

Exit status, as Postgres reads it: 0 done; 1 not stored, or there is no such file (that ends a
recovery's WAL); 64 wrong usage; 200 a fetch that got no answer or a damaged file: recovery must not
go on as if that were the end (everything above 125 stops it).
"""

import json
import os
import socket
import sys
from typing import Any

ABSENT = 1
FATAL = 200
USAGE = 64
TIMEOUT_S = 300.0
"""Without a byte from the helper; it has its own, shorter ones."""


class Told(Exception):
    """The helper's answer where it is no good one: exit status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def push(address: str, path: str) -> None:
    """Have the file at ``path`` stored under its name."""
    with open(path, "rb") as file:  # noqa: PTH123
        content = file.read()
    _ask(address, {"op": "push", "name": os.path.basename(path)}, content)  # noqa: PTH119


def fetch(address: str, name: str, path: str) -> None:
    """Write the file ``name`` to ``path``."""
    content = _ask(address, {"op": "fetch", "name": name}, b"")
    with open(path + ".part", "wb") as file:  # noqa: PTH123
        file.write(content)
    os.replace(path + ".part", path)  # noqa: PTH105


def _ask(address: str, question: "dict[str, str]", content: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(TIMEOUT_S)
        link.connect(address)
        head = json.dumps(dict(question, size=len(content)))
        link.sendall(head.encode() + b"\n" + content)
        with link.makefile("rb") as answers:
            line = answers.readline(65536)
            if not line:
                raise OSError("the helper ended without an answer")
            answer = json.loads(line)
            if answer["status"]:
                raise Told(answer["status"], answer["message"])
            found = answers.read(answer["size"])
    if len(found) != answer["size"]:
        raise OSError("the helper's answer is cut off")
    return found


def main(arguments: "list[str]") -> int:
    """Run a command; its exit status."""
    try:
        if len(arguments) == 3 and arguments[1] == "push":
            push(arguments[0], arguments[2])
        elif len(arguments) == 4 and arguments[1] == "fetch":
            fetch(arguments[0], arguments[2], arguments[3])
        else:
            print("usage: SOCKET push PATH | SOCKET fetch NAME PATH", file=sys.stderr)
            return USAGE
    except Told as told:
        if told.status != ABSENT or arguments[1] == "push":
            print(f"error: {told}", file=sys.stderr)
        return told.status
    except (OSError, ValueError) as error:
        print(f"error: no answer of the WAL helper at {arguments[0]}: {error}", file=sys.stderr)
        print("hint: is it running? entrepot backup wal serve", file=sys.stderr)
        return 1 if arguments[1] == "push" else FATAL
    return 0


def _end(kind: Any, error: Any, trace: Any) -> None:
    """Where Python would end with 1, which says that there is no such file."""
    sys.__excepthook__(kind, error, trace)
    sys.stderr.flush()
    os._exit(FATAL if "fetch" in sys.argv else 1)


if __name__ == "__main__":
    sys.excepthook = _end
    sys.exit(main(sys.argv[1:]))
