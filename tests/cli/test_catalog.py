"""Catalog against store, and the audit trail, from the command line; and the page for users."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from entrepot.clock import new_bytes
from tests.cli.managed import PASSPHRASE, Quick, ours
from tests.cli.test_mistakes import said
from tests.running import wait_for
from tests.sources import ROOT


def test_orphans_are_named_and_healed(made: Quick) -> None:
    bucket = made.new_bucket()
    made.put(bucket, "ours", b"1")
    theirs = made.s3("site-a").put_object(Bucket=bucket, Key="theirs", Body=b"2")["VersionId"]
    found = made.json("catalog", "check", bucket, code=1)
    assert (found["versions"], found["missing"]) == (2, [])
    assert found["orphans"] == [
        {"site": "site-a", "bucket": bucket, "key": "theirs", "version": theirs}
    ]
    assert theirs in made.entrepot("catalog", "check", bucket, code=1).stdout
    healed = made.json("catalog", "check", bucket, "--heal")
    assert (healed["orphans"], healed["buckets"][0]["taken_up"]) == ([], 1)
    assert made.get(bucket, "theirs") == b"2"


def test_what_is_missing_is_named_and_stays(made: Quick) -> None:
    bucket = made.new_bucket()
    made.put(bucket, "k", b"1")
    [row] = made.json("object", "versions", bucket, "k")
    gone = {"Bucket": bucket, "Key": "k", "VersionId": row["version"]}
    made.s3("site-a").delete_object(**gone)
    for more in ([], ["--heal"]):
        found = made.json("catalog", "check", bucket, *more, code=1)
        assert [each["version"] for each in found["missing"]] == [row["version"]]
    assert said(made.entrepot("object", "get", bucket, "k", code=1).stderr)
    made.entrepot("object", "rm", bucket, "k", "--version-id", row["version"])
    assert made.json("catalog", "check", bucket)["missing"] == []


def test_the_catalogs_of_all_sites_are_checked_and_rebuilt(made: Quick, plain: str) -> None:
    found = made.json("catalog", "check")
    assert (found["orphans"], found["missing"]) == ([], [])
    assert found["versions"] == sum(row["versions"] for row in found["buckets"]) > 0
    rebuilt = made.json("catalog", "rebuild", "--site", "site-a")
    assert [row["taken_up"] for row in rebuilt if row["bucket"] == plain] == [0]
    assert made.json("catalog", "check", "--site", "site-b")["orphans"] == []


def test_a_writer_that_is_killed_leaves_nothing(made: Quick, plain: str) -> None:
    command = ours("object", "put", plain, "killed")
    under_way = "SELECT write_id FROM intents WHERE key = 'killed'"
    with subprocess.Popen(command, env=made.info.client_env(), stdin=subprocess.PIPE) as writer:
        assert writer.stdin
        writer.stdin.write(new_bytes(12_000_000))
        writer.stdin.flush()
        wait_for(lambda: made.sql(under_way, site="site-a"), timeout_s=30)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    made.sql(
        "UPDATE intents SET expires_at = now() - interval '1 s' WHERE key = 'killed'"
        " RETURNING write_id",
        site="site-a",
    )
    rows = {row["site"]: row for row in made.json("catalog", "recover")}
    assert rows["site-a"] == {"site": "site-a", "completed": 0, "released": 1, "effects": 0}
    assert made.sql(under_way, site="site-a") == []
    assert (
        "no version" in said(made.entrepot("object", "explain", plain, "killed", code=1).stderr)[0]
    )
    assert made.json("catalog", "check", plain)["orphans"] == []


def test_a_forged_audit_trail_is_found(made: Quick, plain: str) -> None:
    made.put(plain, "audited", b"1")
    assert made.json("audit", "verify")["flaws"] == []
    assert "holds at site-a, site-b" in made.entrepot("audit", "verify").stdout
    [chain] = made.sql(
        "SELECT chain, record FROM audit WHERE record->>'key' = 'audited' LIMIT 1", site="site-a"
    )
    assert chain["record"]["actor"].startswith("cli:")
    change = "UPDATE audit_chains SET length = length + %s WHERE chain = %s RETURNING chain"
    made.sql(change, 1, chain["chain"], site="site-a")
    try:
        [flaw] = made.json("audit", "verify", code=1)["flaws"]
        assert (flaw["site"], flaw["chain"], flaw["number"]) == ("site-a", str(chain["chain"]), 1)
        assert "its end was cut off" in made.entrepot("audit", "verify", code=1).stdout
    finally:
        made.sql(change, -1, chain["chain"], site="site-a")


def blocks() -> Iterator[str]:
    text = (ROOT / "docs/objects.md").read_text()
    yield from re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_what_the_page_says_can_be_typed(made: Quick, tmp_path: Path) -> None:
    typed = list(blocks())
    assert len(typed) == 3
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = made.info.client_env() | PASSPHRASE | {"PATH": path}
    done = subprocess.run(
        ["bash", "-euc", "\n".join(typed)],
        env=env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy.txt").read_text() == "another line\n"
    assert "the audit trail holds" in done.stdout
