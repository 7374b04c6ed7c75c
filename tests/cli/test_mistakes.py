"""Typical mistakes: what went wrong, what to type, the right exit status, never a traceback."""

import os
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from entrepot.cli import main
from tests.running import Running

DEPLOYMENT = "replicate/nightly"


def said(stderr: str) -> tuple[str, str]:
    """The error and the hint, which are all that is said."""
    error, _, hint = stderr.partition("\nhint: ")
    assert error.startswith("error: "), stderr
    assert "Traceback" not in stderr
    return error.removeprefix("error: "), hint.removesuffix("\n")


def alone(*arguments: str, cwd: Path) -> Result:
    """Run a command where there is no stack; in this process, which is quicker."""
    ours: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith(("PREFECT_", "ENTREPOT_"))
    }
    with chdir(cwd):
        done = CliRunner().invoke(main, arguments, env=ours | {"ENTREPOT_DATA": str(cwd / "none")})
    assert isinstance(done.exception, SystemExit), done.exception
    return done


NEED_SETTINGS = [
    *("deploy", "serve", "site list", "site probe site-a", "tenant list", "tenant add acme"),
    *("bucket list", "bucket adopt photos --tenant acme", "config show", "webhook list"),
    *("replicate run", "replicate jobs", "replicate rule list", "replicate rule remove photos"),
    *("replicate conflicts", "replicate resolve 1 --take loser", "replicate plans"),
    *("replicate rule add photos --bucket photos", "quota account", "quota usage"),
    *("replicate rule show photos", "replicate rule edit photos", "replicate rule enable photos"),
    *("replicate rule disable photos", "replicate rule pause photos", "replicate rule resume x"),
    *("token add t", "token list", "token revoke t"),
    *("webhook delete push", f"webhook create push --deployment {DEPLOYMENT}"),
]


@pytest.mark.parametrize("command", NEED_SETTINGS)
def test_without_a_stack_or_settings(command: str, tmp_path: Path) -> None:
    done = alone(*command.split(), cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    error, hint = said(done.stderr)
    assert error.startswith("no config file")
    assert hint.startswith("entrepot up")


@pytest.mark.parametrize("command", NEED_SETTINGS)
def test_a_wrong_key_in_the_settings(command: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("server:\n  prot: 8080\n")
    done = alone(*command.split(), "--config", str(path), cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    error, hint = said(done.stderr)
    assert error.startswith(f"{path}:2: server.prot: unknown key")
    assert "port" in error
    assert hint


@pytest.mark.parametrize("command", ["status", "down"])
def test_no_stack_in_the_directory(command: str, tmp_path: Path) -> None:
    done = alone(command, cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (1, "")
    error, hint = said(done.stderr)
    assert error.startswith("there is no stack in this directory")
    assert hint.startswith("start one with: entrepot up")


@pytest.fixture(scope="module")
def dead(stack: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a stack of which nothing answers."""
    lines = stack.info.config_path.read_text().splitlines()
    secrets = (stack.info.data_dir / "secrets.env").read_text()
    folder = tmp_path_factory.mktemp("dead")
    (folder / "secrets.env").write_text(secrets)
    (folder / "secrets.env").chmod(0o600)
    ports = [each.port for each in map(stack.child, ("postgres", "prefect", *stack.sites))]
    text = "\n".join(lines) + "\n"
    for port in ports:
        text = text.replace(str(port), "1")
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("deploy", "the catalog cannot be reached"),
        ("site list", "the catalog cannot be reached"),
        ("site probe site-a", "the endpoint did not answer"),
        ("bucket list", "the catalog cannot be reached"),
        ("quota usage", "the catalog cannot be reached"),
        ("quota account", "prefect does not answer"),
        ("replicate run", "prefect does not answer"),
        (f"webhook create push --deployment {DEPLOYMENT}", "prefect does not answer"),
    ],
)
def test_nothing_answers(dead: Path, tmp_path: Path, command: str, words: str) -> None:
    done = alone(*command.split(), "--config", str(dead), cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (1, "")
    error, hint = said(done.stderr.removeprefix("  catalogs\n"))
    assert words in error
    assert hint == "entrepot status" or hint.startswith("is the server at http://127.0.0.1:1 up")


@pytest.mark.parametrize(
    ("command", "code", "words", "hint"),
    [
        ("site probe site-z", 2, "there is no site site-z", "one of: site-a, site-b"),
        ("tenant add Acme", 2, "not a name that is allowed", "a-z, 0-9"),
        ("tenant add ''", 2, "not a name that is allowed", "a-z, 0-9"),
        ("bucket adopt photos --tenant nobody", 1, "no such tenant", "entrepot tenant add nobody"),
        ("bucket adopt A_B --tenant t", 2, "bucket name is not allowed", "3 to 63 of a-z"),
        ("bucket adopt abc --tenant t --site z", 2, "there is no site z", "entrepot site list"),
        ("replicate rule add R --bucket abc", 2, "not a name that is allowed", "a-z, 0-9"),
        ("replicate rule add r --bucket a", 2, "buckets.0: not a name", "rule add --help"),
        ("replicate rule add r", 2, "buckets: 1 or more", "rule add --help"),
        ("replicate rule add r --bucket abc --site site-a", 2, "sites: 2 or more", "--help"),
        ("replicate rule add r --bucket abc --bucket abc", 2, "buckets: each once", "--help"),
        ("replicate rule add r --bucket abc --rpo 5", 2, "not a duration", ""),
        ("replicate rule edit none --prefix x", 1, "no such rule", "entrepot replicate rule list"),
        ("replicate rule edit r --unset color", 2, "a rule has no field color", "one of: buckets"),
        ("replicate rule show none", 1, "no such rule", "entrepot replicate rule list"),
        ("replicate rule enable none", 1, "no such rule", "entrepot replicate rule list"),
        ("replicate rule pause none --for 1h", 1, "no such rule", "entrepot replicate rule list"),
        ("replicate rule pause r --for soon", 2, "not a duration", ""),
        ("replicate rule pause r --until soon", 2, "not a time", "2026-03-01T18:00"),
        ("replicate rule pause r --until 2020-01-01", 2, "has passed", "one to come"),
        ("token add T", 2, "not a name that is allowed", "a-z, 0-9"),
        ("token add t --for 0s", 2, "a token lives", "--for 90d"),
        ("token revoke none", 1, "no such token", "entrepot token list"),
        ("replicate rule add r --bucket abc --site z --site y", 2, "no site y", "one of: site-a"),
        ("replicate rule remove none", 1, "no such rule", "entrepot replicate rule list"),
        ("webhook create Push --deployment a/b", 2, "not a name that is allowed", "a-z, 0-9"),
        ("webhook create push --deployment a", 2, "named flow/deployment", "replicate/nightly"),
        ("webhook create push --deployment a/b", 1, "no such deployment", "entrepot deploy"),
        (
            f"webhook create push --deployment {DEPLOYMENT} --allow x",
            2,
            "not a parameter",
            "it has: ",
        ),
        ("webhook delete none", 1, "no such webhook", "entrepot webhook list"),
        ("config show --config /none.yaml", 2, "no such config file", "check --config"),
        ("serve", 1, "address already in use", "choose another with --port"),
    ],
)
def test_a_mistake(stack: Running, command: str, code: int, words: str, hint: str) -> None:
    arguments = [part.strip("'") for part in command.split()]
    error, told = said(stack.entrepot(*arguments, code=code).stderr)
    assert words in error
    assert hint in told


def test_buckets_that_cannot_be_looked_after(stack: Running) -> None:
    bucket = stack.bucket("mistakes")
    stack.entrepot("tenant", "add", "mistaken")
    adopt = ("bucket", "adopt", bucket, "--tenant")
    stack.s3("site-b").put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
    )
    error, hint = said(stack.entrepot(*adopt, "mistaken", code=1).stderr)
    assert "keeps no versions" in error
    assert hint == f"mc version enable site-b/{bucket}"
    stack.s3("site-b").delete_bucket(Bucket=bucket)
    error, hint = said(stack.entrepot(*adopt, "mistaken", code=1).stderr)
    assert "missing at a site" in error
    assert hint.endswith(f"mc mb --with-versioning site-b/{bucket}")
    assert bucket not in {row["bucket"] for row in stack.json("bucket", "list")}

    stack.entrepot(*adopt, "mistaken", "--site", "site-a")
    stack.entrepot("tenant", "add", "other")
    error, hint = said(stack.entrepot(*adopt, "other", "--site", "site-a", code=1).stderr)
    assert "belongs to another tenant" in error
    assert hint == "entrepot bucket list"


def test_a_run_that_fails_tells_its_error_hint_and_place(stack: Running) -> None:
    done = stack.entrepot("replicate", "run", "nowhere", code=1)
    [started, *_, error, hint, see] = done.stderr.splitlines()
    assert started.startswith("started ")
    assert error.startswith("error: ") and "NotFound: there is no such rule" in error
    assert hint == (
        "hint: entrepot replicate rule add nowhere --bucket BUCKET --site SITE --site SITE"
    )
    assert see.startswith(f"hint: see {stack.info.prefect_ui_url}/runs/flow-run/")
