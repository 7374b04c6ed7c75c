"""What the tests of managed buckets share: the stack with quick commands, and new buckets."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from click.testing import CliRunner, Result

from entrepot.cli import main
from entrepot.clock import new_id
from tests.running import Running

TENANT = "studio"
PASSPHRASE = {"ENTREPOT_KIT_PASSPHRASE": "correct horse battery"}


class Quick(Running):
    """The stack, with commands run in this process: without the start of a Python for each."""

    def typed(self, *arguments: str, code: int = 0) -> Result:
        """Run a command, which must end with ``code``."""
        done = CliRunner().invoke(main, arguments, env=self.info.client_env())
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == code, done.output
        return done

    def entrepot(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.typed(*arguments, code=code)
        return subprocess.CompletedProcess(arguments, code, done.stdout, done.stderr)

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Write an object from a file."""
        with TemporaryDirectory() as folder:
            source = Path(folder, "source")
            source.write_bytes(body)
            self.typed("object", "put", bucket, key, str(source))

    def get(self, bucket: str, key: str, *more: str) -> bytes:
        """Read an object through standard output."""
        return self.typed("object", "get", bucket, key, *more).stdout_bytes

    def new_bucket(self, *options: str) -> str:
        """A managed bucket of a known tenant."""
        name = f"managed-{new_id().hex[:8]}"
        self.typed("bucket", "create", name, "--tenant", TENANT, *options)
        return name

    def raw(self, bucket: str, key: str) -> bytes:
        """What lies in the bucket."""
        body: bytes = self.s3("site-a").get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def process(self, *arguments: str, data: bytes = b"", code: int = 0) -> None:
        """Run a command as a process that has ``data`` as its standard input."""
        run(ours(*arguments), env=self.info.client_env(), data=data, code=code)


def ours(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "entrepot.cli", *map(str, arguments)]


def run(
    command: list[str], *, env: dict[str, str], data: bytes = b"", code: int = 0
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, which must be ``code``."""
    done = subprocess.run(
        command, env=env, input=data, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done
