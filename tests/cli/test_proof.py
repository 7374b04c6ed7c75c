"""``entrepot replicate verify``, ``where`` and certificates, as a person types them."""

import json
from pathlib import Path

from tests.cli.managed import Quick
from tests.cli.test_mistakes import said


def test_sites_are_compared_and_the_answer_is_signed(made: Quick, tmp_path: Path) -> None:
    rule, path = made.bucket("proof"), tmp_path / "c.json"
    for site in made.sites:
        made.s3(site).put_object(Bucket=rule, Key=f"only/{site}", Body=b"x")
    verify = ("replicate", "verify", rule)
    found = made.json(*verify, "--out", str(path), code=1)
    assert (found["identical"], found["keys"], found["versions"]) == (False, 1, 1)
    assert (found["digest"], found["differing"]) == (None, 2)
    assert {each["key"] for each in found["differences"]} == {"only/site-a", "only/site-b"}
    assert not json.loads(path.read_text())["identical"]
    told = made.entrepot(*verify, code=1).stdout
    assert "only/site-a" in told
    assert "missing-version" in told

    made.replicate(rule)
    found = made.json(*verify, "--out", str(path), "--level", "content", "--sample", "500")
    assert (found["identical"], found["keys"], found["differences"]) == (True, 2, [])
    [bucket] = found["buckets"]
    assert bucket["digest"] == found["digest"] == bucket["compared"][0]["digest"]
    assert "bytes of 500 of 1,000 versions are read" in found["limits"][0]
    narrow = made.json(*verify, "--prefix", "only/site-a", "--current", "--level", "listing")
    assert (narrow["keys"], narrow["prefix"]) == (1, "only/site-a")
    assert narrow["digest"] != found["digest"]

    rows = made.json("replicate", "certificates", rule)
    assert [row["identical"] for row in rows] == [True, True, False, False]
    check_offline(made, path)


def check_offline(made: Quick, path: Path) -> None:
    check = ("replicate", "check-certificate", str(path))
    [*_, key] = made.json("replicate", "certificate-key")
    assert made.json(*check, "--key", key["public"])["trusted"]
    stated = made.json(*check)
    assert (stated["trusted"], stated["fingerprint"]) == (False, key["fingerprint"])
    assert f"signed by {key['fingerprint']}" in made.entrepot(*check).stdout
    other = made.entrepot(*check, "--key", "A" * 43 + "=", code=1)
    assert "another key" in said(other.stderr)[0]
    path.write_text(path.read_text().replace('"keys":2', '"keys":3', 1))
    assert "was changed" in said(made.entrepot(*check, code=1).stderr)[0]


def test_what_a_rule_does_not_cover_is_refused(made: Quick) -> None:
    rule = made.bucket("proof")
    for more in (("--bucket", "nowhere"), ("--level", "none")):
        made.entrepot("replicate", "verify", rule, *more, code=2)
    assert "no such rule" in said(made.entrepot("replicate", "verify", "nope", code=1).stderr)[0]


def test_where_a_key_is(made: Quick) -> None:
    rule = made.bucket("proof")
    made.s3("site-a").put_object(Bucket=rule, Key="k", Body=b"x", Tagging="a=1")
    found = made.json("replicate", "where", rule, "k", code=1)
    first, second = found["sites"]
    assert [version["tags"] for version in first["versions"]] == [{"a": "1"}]
    assert (second["versions"], second["error"], found["agree"]) == ([], None, False)
    assert {each["kind"] for each in found["differences"]} == {"missing-version", "other-current"}
    assert "the sites do not agree" in made.entrepot("replicate", "where", rule, "k", code=1).stdout
    made.replicate(rule)
    assert made.json("replicate", "where", rule, "k")["agree"]
    assert "all sites agree" in made.entrepot("replicate", "where", rule, "k").stdout
    made.json("replicate", "where", rule, "k", "--site", "site-b")


def test_where_says_what_the_catalog_has(made: Quick) -> None:
    bucket = made.new_bucket()
    made.put(bucket, "k", b"1")
    made.s3("site-a").put_object(Bucket=bucket, Key="k", Body=b"round us")
    found = made.json("replicate", "where", bucket, "k", code=1)
    first, second = found["sites"]
    assert (first["catalog"]["mode"], first["catalog"]["versions"]) == ("managed", 1)
    assert first["catalog"]["current"] == first["versions"][1]["version_id"]
    assert "bucket does not exist" in second["error"]
    told = made.entrepot("replicate", "where", bucket, "k", code=1).stdout
    assert "site-b: " in told
