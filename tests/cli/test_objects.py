"""Managed buckets from the command line: what it says is held against boto3 and plain SQL."""

import asyncio
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from entrepot.catalog.objects.facts import ObjectRow
from entrepot.cli.keys.ring import opened_ring
from entrepot.cli.object.explain import why
from entrepot.cli.object.opening import iso, shown
from entrepot.clock import new_bytes, new_id
from entrepot.stamp import Stamp
from tests.cli.managed import PASSPHRASE, TENANT, Quick, ours, run
from tests.cli.test_mistakes import alone, said
from tests.sources import ROOT


@pytest.fixture(scope="module")
def kit(made: Quick, sealed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kit") / "kit.txt"
    made.put(sealed, "first-of-its-tenant", b"small")
    run(ours("keys", "export", path), env=made.info.client_env() | PASSPHRASE)
    return path


# Buckets


def test_a_managed_bucket_is_created_listed_and_shown(made: Quick, tmp_path: Path) -> None:
    name = f"managed-{new_id().hex[:8]}"
    create = ("bucket", "create", name, "--tenant", TENANT)
    for _ in range(2):
        told = made.entrepot(*create, "--encrypted", "--site", "site-b").stdout
        assert told == f"bucket {name} belongs to {TENANT} at site-b: managed, encrypted\n"
    [row] = [row for row in made.json("bucket", "list") if row["bucket"] == name]
    assert row == {
        "site": "site-b",
        "bucket": name,
        "tenant": TENANT,
        "mode": "managed",
        "encrypted": True,
        "compressed": False,
    }
    source = tmp_path / "five"
    source.write_bytes(b"12345")
    made.entrepot("object", "put", name, "k", str(source), "--site", "site-b")
    [seen] = made.json("bucket", "show", name, "--recount")
    assert seen["equal"] and seen["usage"] == seen["recounted"]
    assert (seen["usage"]["objects"], seen["usage"]["current_bytes"]) == (1, 5)
    people = made.entrepot("bucket", "show", name, "--recount").stdout
    assert f"{name} at site-b: managed, encrypted" in people
    assert "counted anew    equal" in people
    error, hint = said(made.entrepot(*create, "--site", "site-b", code=1).stderr)
    assert "with other options" in error and hint == f"entrepot bucket show {name}"


def test_what_has_not_come_yet_is_read_from_a_peer(made: Quick) -> None:
    name = made.new_bucket("--encrypted", "--site", "site-a", "--site", "site-b")
    rule, there = ("replicate", "rule"), ("--site", "site-b")
    made.typed(*rule, "add", name, "--bucket", name, "--peer-reads", "--disabled")
    made.typed(*rule, "pause", name)  # so that no stream brings it
    made.typed(*rule, "enable", name, "--no-seed")
    for key in ("k", "other"):
        made.put(name, key, b"one line")
    read = made.typed("object", "get", name, "k", *there)
    assert read.stdout_bytes == b"one line"
    assert read.stderr == "served by site-a: it has not come here yet\n"
    made.typed("object", "rm", name, "k", *there)
    made.typed("object", "get", name, "k", *there, code=1)
    made.typed(*rule, "edit", name, "--no-peer-reads")
    made.typed("object", "get", name, "other", *there, code=1)
    made.typed(*rule, "remove", name)


def test_a_recount_that_differs_is_told(made: Quick, plain: str) -> None:
    made.put(plain, "counted", b"1")
    change = (
        "UPDATE usage_counters SET versions = versions + %s"
        " WHERE bucket_id = (SELECT id FROM buckets WHERE name = %s) AND slot ="
        " (SELECT min(slot) FROM usage_counters u JOIN buckets b ON b.id = u.bucket_id"
        "  WHERE b.name = %s) RETURNING slot"
    )
    assert made.sql(change, 1, plain, plain, site="site-a")
    try:
        [seen] = made.json("bucket", "show", plain, "--recount", code=1)
        assert seen["equal"] is False
        assert seen["usage"]["versions"] == seen["recounted"]["versions"] + 1
        people = made.entrepot("bucket", "show", plain, "--recount", code=1).stdout
        assert f"differs: versions {seen['recounted']['versions']}" in people
    finally:
        made.sql(change, -1, plain, plain, site="site-a")


# Objects


def test_a_plain_object_is_any_tools_to_read(made: Quick, plain: str, tmp_path: Path) -> None:
    source = tmp_path / "page"
    source.write_bytes(b"<p>hello")
    put = ("object", "put", plain, "dir/page.html", str(source), "--metadata", "Author=ada=x")
    row = made.json(*put)
    got = made.s3("site-a").get_object(Bucket=plain, Key="dir/page.html")
    assert got["Body"].read() == b"<p>hello"
    assert (got["ContentType"], got["Metadata"]["author"]) == ("text/html", "ada=x")
    assert got["VersionId"] == row["version"]
    assert got["ETag"].strip('"') == row["etag"]


@pytest.mark.parametrize("kind", ["plain", "sealed"])
def test_an_object_comes_and_goes(
    made: Quick, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket, key = request.getfixturevalue(kind), f"k-{new_id().hex[:6]}"
    bodies = [new_bytes(9_000_000), b"all the same\n" * 100_000]
    made.process("object", "put", bucket, key, data=bodies[0])  # of unknown length
    (tmp_path / "source").write_bytes(bodies[1])
    made.entrepot("object", "put", bucket, key, str(tmp_path / "source"))
    [second, first] = made.json("object", "versions", bucket, key)
    assert (second["current"], first["current"]) == (True, False)

    assert made.get(bucket, key) == bodies[1]
    target = tmp_path / "target"
    made.entrepot("object", "get", bucket, key, str(target), "--version-id", first["version"])
    assert target.read_bytes() == bodies[0]
    for span, part in (("5-9", slice(5, 10)), ("1299990-", slice(1299990, None))):
        assert made.get(bucket, key, "--range", span) == bodies[1][part]
    assert made.get(bucket, key, "--range", "-7") == bodies[1][-7:]

    assert made.json("object", "rm", bucket, key)["delete_marker"]
    error, hint = said(made.entrepot("object", "get", bucket, key, code=1).stderr)
    assert "was deleted" in error and hint.startswith(f"entrepot object versions {bucket} {key}")
    assert key not in [row["key"] for row in made.json("object", "list", bucket)]
    marker = made.json("object", "versions", bucket, key)[0]
    assert (marker["what"], marker["current"]) == ("delete marker", True)
    made.entrepot("object", "rm", bucket, key, "--version-id", marker["version"])
    assert made.get(bucket, key) == bodies[1]


def test_a_file_is_replaced_only_when_asked(made: Quick, plain: str, tmp_path: Path) -> None:
    made.put(plain, "replace", b"new")
    target = tmp_path / "target"
    target.write_bytes(b"old")
    get = ("object", "get", plain, "replace", str(target))
    error, hint = said(made.entrepot(*get, code=1).stderr)
    assert error.startswith("the file exists") and hint == "--force replaces it"
    made.entrepot("object", "get", plain, "replace", str(target), "--range", "0-0", "--force")
    assert target.read_bytes() == b"n"
    assert made.entrepot("object", "get", plain, "replace", "/dev/null", "--force", code=2)
    assert list(tmp_path.iterdir()) == [target]


def test_conditions(made: Quick, plain: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    put = ("object", "put", plain, "conditional", str(source))
    row = made.json(*put, "--if-none-match")
    error, hint = said(made.entrepot(*put, "--if-none-match", code=1).stderr)
    assert "not the one" in error and hint == f"entrepot object explain {plain} conditional"
    source.write_bytes(b"2")
    made.entrepot(*put, "--if-match", f'"{row["etag"]}"')
    assert "not the one" in said(made.entrepot(*put, "--if-match", row["etag"], code=1).stderr)[0]
    assert made.raw(plain, "conditional") == b"2"


def test_listings_are_cut_and_gone_on_with(made: Quick, tmp_path: Path) -> None:
    bucket = made.new_bucket()
    for key in ("a b", "f/1", "f/2", "g\n", "z"):
        made.put(bucket, key, b"x")
    done = made.entrepot("object", "list", bucket, "--limit", "2", "--delimiter", "/")
    assert [line.split("  ")[-1] for line in done.stdout.splitlines()] == ["a b", "f/"]
    assert done.stderr == "more follow; go on with --after f/\n"
    rest = made.json("object", "list", bucket, "--delimiter", "/", "--after", "f/")
    assert [row["key"] for row in rest] == ["g\n", "z"]
    assert '"g\\n"' in made.entrepot("object", "list", bucket).stdout
    [one] = made.json("object", "list", bucket, "--prefix", "f/2")
    assert (one["size_bytes"], one["is_prefix"]) == (1, False)
    assert len(made.json("object", "versions", bucket, "--prefix", "f/")) == 2
    assert made.entrepot("object", "versions", bucket, "--limit", "2").stderr.startswith("more")


def test_a_terminal_gets_text_only(made: Quick, plain: str) -> None:
    made.put(plain, "binary", b"\x1b[31m\x00")
    made.put(plain, "text", b"plain words\n")
    seen = {}
    for key, code in (("binary", 2), ("text", 0)):
        main, side = pty.openpty()
        command = ours("object", "get", plain, key)
        done = subprocess.run(
            command,
            env=made.info.client_env(),
            stdin=subprocess.DEVNULL,
            stdout=side,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
        os.close(side)
        assert done.returncode == code, done.stderr
        with os.fdopen(main, "rb", buffering=0) as terminal:
            seen[key] = (_rest(terminal), done.stderr.decode())
    assert seen["text"] == (b"plain words\r\n", "")
    assert seen["binary"][0] == b""
    assert said(seen["binary"][1])[1] == "name a FILE, or redirect it"


def _rest(terminal: Any) -> bytes:
    try:
        return bytes(terminal.read(1000))
    except OSError:  # how Linux says that the other side has closed and nothing is left
        return b""


def test_adopted_buckets_pass_through(made: Quick, tmp_path: Path) -> None:
    bucket = made.bucket("passing")
    made.entrepot("bucket", "adopt", bucket, "--tenant", TENANT)
    source = tmp_path / "source"
    source.write_bytes(b"through")
    made.entrepot("object", "put", bucket, "k", str(source))
    assert made.raw(bucket, "k") == b"through"
    assert made.get(bucket, "k") == b"through"
    assert [row["key"] for row in made.json("object", "list", bucket)] == ["k"]
    made.process("object", "put", bucket, "k", data=b"stream", code=2)
    error, hint = said(made.entrepot("object", "explain", bucket, "k", code=1).stderr)
    assert "adopted bucket" in error and "managed" in hint
    error, _ = said(made.entrepot("catalog", "check", bucket, code=1).stderr)
    assert "adopted bucket" in error
    assert made.json("bucket", "show", bucket)[0]["usage"] is None
    made.entrepot("object", "rm", bucket, "k")
    assert made.view("site-a", bucket) == {}


# Explain


def row_of(
    time_ms: int, *, parent: int | None = None, site: str = "site-a", **more: Any
) -> ObjectRow:
    stamp = Stamp(time_ms, site, "w")
    above = Stamp(parent, "site-a", "w") if parent else None
    number = str(time_ms)[0] * 8
    return ObjectRow(1, "k", f"{number}-id", stamp, UUID(int=time_ms), above, **more)


ONE, TWO = row_of(1000), row_of(2000, parent=1000)
FUTURE = row_of(9000, is_quarantined=True)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([ONE], "current: 11111111 is the only version"),
        ([TWO, ONE], "current: 22222222 has the newest stamp, 1000 ms after 11111111"),
        (
            [row_of(2000, parent=1000, is_delete_marker=True), ONE],
            "deleted: delete marker 22222222 has the newest stamp, 1000 ms after 11111111",
        ),
        (
            [row_of(3000, parent=1000), TWO, ONE],
            "current: 33333333 has the newest stamp, 1000 ms after 22222222; "
            "its writer began before that was there",
        ),
        (
            [FUTURE, ONE],
            "current: 11111111 is the only version; 1 from the future in quarantine",
        ),
        ([FUTURE], "nothing is current, as every version is from the future and quarantined"),
        (
            [row_of(1000, parent=1000, site="site-b"), ONE],
            "current: 11111111 and 11111111 have one time, and its site and writer sort last",
        ),
    ],
)
def test_why_a_version_is_current(rows: list[ObjectRow], line: str) -> None:
    assert why(rows) == line


def test_explain_knows_every_version(made: Quick, sealed: str) -> None:
    key = f"explained-{new_id().hex[:6]}"
    made.put(sealed, key, b"text " * 300_000)
    made.put(sealed, key, b"small")
    made.entrepot("object", "rm", sealed, key)
    told = made.json("object", "explain", sealed, key)
    marker, small, text = told["versions"]
    assert told["current"] == marker["version"] and marker["current"]
    assert told["why"].startswith(f"deleted: delete marker {marker['version'][:8]}")
    assert [small["parent"], marker["parent"]] == [text["stamp"], small["stamp"]]
    assert (text["compressed"], text["encrypted"], text["key_number"]) == (True, True, 1)
    assert (small["compressed"], small["encrypted"], small["size_bytes"]) == (False, True, 5)
    assert text["stored_bytes"] < text["size_bytes"] == 1_500_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text["written"])
    versions = made.s3("site-a").list_object_versions(Bucket=sealed, Prefix=key)
    stored = {each["VersionId"]: each["Size"] for each in versions["Versions"]}
    assert stored == {each["version"]: each["stored_bytes"] for each in (small, text)}
    people = made.entrepot("object", "explain", sealed, key).stdout
    assert f"{text['stored_bytes']} bytes stored, compressed, encrypted with key 1" in people
    assert people.splitlines()[-1] == f"{key}: {told['why']}"


def test_times_and_keys_as_people_read_them() -> None:
    assert iso(1_764_000_000_007) == "2025-11-24T16:00:00.007Z"
    assert iso(999_999_999_999_999) == "999999999999999 ms"
    assert [shown("grün/a b"), shown("a\x1b[2J")] == ["grün/a b", '"a\\u001b[2J"']


# Offline


@pytest.fixture(scope="module")
def downloaded(
    made: Quick, sealed: str, kit: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, bytes]:
    body, path = new_bytes(3_000_000), tmp_path_factory.mktemp("raw") / "object"
    made.put(sealed, "offline", body)
    path.write_bytes(made.raw(sealed, "offline"))
    return path, body


async def tenant_key(stack: Quick) -> bytes:
    async with opened_ring(stack.config) as ring:
        return (await ring.get(TENANT, 1)).secret


def offline(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Decrypt where there are no settings, and nothing that they could name."""
    command = ours("object", "decrypt", *arguments)
    env = {name: value for name, value in os.environ.items() if not name.startswith("ENTREPOT_")}
    return run(command, env=env | PASSPHRASE | {"ENTREPOT_DATA": "/nowhere"}, code=code)


def test_an_object_is_decrypted_with_the_kit_alone(
    downloaded: tuple[Path, bytes], kit: Path, tmp_path: Path
) -> None:
    path, body = downloaded
    assert offline(path, "--kit", kit).stdout == body
    target = tmp_path / "plain"
    offline(path, "--kit", kit, "--output", target)
    assert target.read_bytes() == body
    assert said(offline(path, code=2).stderr.decode())[1].startswith("--kit FILE")


def test_an_object_is_decrypted_with_the_key_alone(
    made: Quick, downloaded: tuple[Path, bytes], tmp_path: Path
) -> None:
    path, body = downloaded
    secret, file = asyncio.run(tenant_key(made)), tmp_path / "key"
    for text in (secret, secret.hex().encode() + b"\n"):
        file.write_bytes(text)
        assert offline(path, "--key-file", file).stdout == body
    for wrong, code, words in (
        (secret[:31], 2, "a tenant key has 32 bytes"),
        (new_bytes(32), 1, "seal of the data key does not open"),
    ):
        file.write_bytes(wrong)
        done = offline(path, "--key-file", file, "--output", tmp_path / "out", code=code)
        assert words in said(done.stderr.decode())[0]
    file.write_bytes(secret)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(bytes([*path.read_bytes()[:2_000_000], 0, *path.read_bytes()[2_000_001:]]))
    done = offline(damaged, "--key-file", file, "--output", tmp_path / "out", code=1)
    assert said(done.stderr.decode())[1]
    assert sorted(tmp_path.iterdir()) == [damaged, file]  # nothing partial, no leftover


def test_what_is_only_compressed_needs_no_key(made: Quick, tmp_path: Path) -> None:
    bucket, body = made.new_bucket("--compressed"), b"again and again\n" * 100_000
    made.put(bucket, "k", body)
    path = tmp_path / "object"
    path.write_bytes(made.raw(bucket, "k"))
    assert path.stat().st_size < len(body) / 10
    assert offline(path).stdout == body
    path.write_bytes(body)
    assert "not an encoded object" in said(offline(path, code=1).stderr.decode())[0]


# Mistakes


@pytest.fixture(scope="module")
def here(made: Quick, plain: str) -> str:
    """A bucket with an object of that name."""
    made.put(plain, "here", b"here")
    return plain


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("bucket create B --tenant studio", 2, ("bucket name is not allowed", "3 to 63 of a-z")),
        ("bucket create abc --tenant nobody", 1, ("no such tenant", "entrepot tenant add nobody")),
        ("bucket create abc --tenant studio --site z", 2, ("no site z", "entrepot site list")),
        ("bucket create entrepot-internal-x --tenant studio", 2, ("are reserved", "")),
        ("bucket show nowhere", 1, ("nobody looks after", "entrepot bucket list")),
        ("object get nowhere k", 1, ("nobody looks after", "entrepot bucket create nowhere")),
        ("object get PLAIN nothing", 1, ("no such object", "entrepot object list PLAIN")),
        ("object get PLAIN here --version-id x", 1, ("no such version", "entrepot object")),
        ("object get PLAIN here --range 5-2", 2, ("not a range", "0-99")),
        ("object get PLAIN here --range 9-", 2, ("range", "")),
        ("object get PLAIN here /nowhere/x", 1, ("no such file", "ls /nowhere")),
        ("object get PLAIN here --site z", 2, ("no site z", "entrepot site list")),
        ("object put PLAIN k /nowhere", 1, ("no such file", "ls /")),
        ("object put PLAIN k /", 2, ("directory", "name a file")),
        ("object put PLAIN /k README.md", 2, ("slash", "")),
        ("object put PLAIN k README.md --metadata x", 2, ("NAME=VALUE", "")),
        ("object put PLAIN k README.md --metadata entrepot-x=1", 2, ("reserved", "")),
        ("object put PLAIN k README.md --if-match abc", 1, ("no object to match", "")),
        ("object rm PLAIN nothing", 1, ("no such object", "entrepot object list PLAIN")),
        ("object rm PLAIN here --version-id x", 1, ("no such version", "object versions PLAIN")),
        ("object versions PLAIN nothing", 1, ("no version of this key", "object list PLAIN")),
        ("object versions PLAIN k --prefix k", 2, ("not both", "")),
        ("object explain PLAIN nothing", 1, ("no version of this key", "object list PLAIN")),
        ("object decrypt /nowhere --key-file README.md", 2, ("32 bytes", "--kit")),
        ("object decrypt README.md --key-file a --kit b", 2, ("not both", "")),
        ("object decrypt /nowhere", 1, ("no such file", "ls /")),
        ("catalog check nowhere", 1, ("no site has this bucket", "entrepot bucket list")),
        ("catalog check --site z", 2, ("no site z", "entrepot site list")),
        ("audit verify --site z", 2, ("no site z", "entrepot site list")),
    ],
)
def test_a_mistake(made: Quick, here: str, command: str, code: int, told: tuple[str, str]) -> None:
    words = command.replace("PLAIN", here).replace("README.md", str(ROOT / "README.md"))
    done = made.entrepot(*words.split(), code=code)
    error, hint = said(done.stderr)
    assert told[0] in error
    assert told[1].replace("PLAIN", here) in hint
    assert done.stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        *("bucket create abc --tenant t", "bucket show abc", "object list abc", "object rm abc k"),
        *("object get abc k", "object versions abc", "object explain abc k", "catalog check"),
        *("catalog rebuild", "catalog recover", "audit verify", "keys list", "keys init"),
    ],
)
def test_without_settings(command: str, tmp_path: Path) -> None:
    done = alone(*command.split(), cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    error, hint = said(done.stderr)
    assert error.startswith("no config file") and hint.startswith("entrepot up")


def test_buckets_are_dropped(made: Quick, tmp_path: Path) -> None:
    name, source = f"managed-{new_id().hex[:8]}", tmp_path / "source"
    source.write_bytes(b"x")
    made.entrepot("bucket", "create", name, "--tenant", TENANT)
    row = made.json("object", "put", name, "k", str(source))
    error, hint = said(made.entrepot("bucket", "drop", name, code=1).stderr)
    assert "not empty" in error and "entrepot object versions" in hint
    made.entrepot("object", "rm", name, "k", "--version-id", row["version"])
    assert made.entrepot("bucket", "drop", name).stdout == f"bucket {name} dropped at site-a\n"
    error, hint = said(made.entrepot("bucket", "drop", name, code=1).stderr)
    assert "nobody looks after" in error and hint == "entrepot bucket list"
    adopted = made.bucket("left-alone")
    made.entrepot("bucket", "adopt", adopted, "--tenant", TENANT)
    assert "site-a, site-b" in made.entrepot("bucket", "drop", adopted).stdout
    assert adopted not in {row["bucket"] for row in made.json("bucket", "list")}
