"""The proof as a flow: it fails where sites differ, and its certificate is checked offline."""

import json
import re
from pathlib import Path

from tests.running import Running


def test_a_run_fails_where_sites_differ_and_certifies_where_they_do_not(
    stack: Running, tmp_path: Path
) -> None:
    bucket = stack.bucket("verify")
    s3 = stack.s3("site-a")
    s3.put_object(Bucket=bucket, Key="ü", Body=b"x", Tagging="a=1", Metadata={"b": "c"})
    request = {"rule": bucket, "settle_s": 0}
    run_id = stack.start("verify_replication/daily", request)
    ended = stack.ended(run_id, "FAILED")
    assert "sites differ" in ended["state"]["message"]
    kinds = {(row["key"], row["kind"]) for row in stack.table(run_id, "verify-differences")}
    assert kinds == {("ü", "missing-version"), ("ü", "other-current")}
    assert not certificate(stack, run_id, bucket)["identical"]

    stack.replicate(bucket)
    run_id = stack.start("verify_replication/daily", {**request, "level": "content"})
    stack.ended(run_id)
    [report] = stack.table(run_id, "verify-report")
    assert (report["identical"], report["key_count"], report["version_count"]) == (True, 1, 1)
    stated = certificate(stack, run_id, bucket, save=tmp_path / "certificate.json")
    assert (stated["identical"], stated["digest"]) == (True, report["digest"])
    assert stack.json("replicate", "check-certificate", str(tmp_path / "certificate.json"))
    [kept] = stack.sql("SELECT document FROM certificates WHERE rule = %s AND identical", bucket)
    assert json.loads(kept["document"]) == stated


def certificate(
    stack: Running, run_id: str, rule: str, *, save: Path | None = None
) -> dict[str, object]:
    """The certificate of a run's artifact, saved as the artifact says."""
    [found] = [
        each for each in stack.of_run("artifacts", run_id) if each["key"] == f"certificate-{rule}"
    ]
    line = re.search(r"^```json\n(.*)\n```$", found["data"], re.MULTILINE)
    assert line
    if save:
        save.write_text(line[1] + "\n")
    stated: dict[str, object] = json.loads(line[1])
    return stated
