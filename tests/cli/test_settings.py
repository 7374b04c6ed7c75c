"""``entrepot replicate settings``, as a person types it."""

from tests.cli.managed import Quick


def test_settings_are_compared_and_made_equal(made: Quick) -> None:
    rule = made.bucket("settings")
    s3 = made.s3("site-a")
    s3.put_bucket_tagging(Bucket=rule, Tagging={"TagSet": [{"Key": "team", "Value": "a"}]})
    [row] = made.json("replicate", "settings", rule, code=1)
    assert (row["site"], row["setting"], row["step"], row["done"]) == (
        "site-b",
        "tags",
        "change",
        False,
    )
    [row] = made.json("replicate", "settings", rule, "--apply")
    assert row["done"]
    tags = made.s3("site-b").get_bucket_tagging(Bucket=rule)["TagSet"]
    assert tags == [{"Key": "team", "Value": "a"}]
    assert "are the same" in made.entrepot("replicate", "settings", rule).stdout
    s3.delete_bucket_tagging(Bucket=rule)
    [row] = made.json("replicate", "settings", rule, "--apply", code=1)
    assert (row["step"], row["done"]) == ("keep", False)
    [row] = made.json("replicate", "settings", rule, "--apply", "--remove")
    assert (row["step"], row["done"]) == ("remove", True)
