"""Conflicts, resolutions and saved plans from the command line, over a stack that works."""

from tests.running import Running


def test_a_conflict_from_the_first_write_to_its_reversal(stack: Running) -> None:
    rule = stack.bucket("conflicts")
    for site in ("site-a", "site-b"):
        stack.s3(site).put_object(Bucket=rule, Key="k", Body=f"by {site}".encode())
    stack.json("replicate", "run", rule)
    [row] = stack.json("replicate", "conflicts", "--rule", rule)
    assert (row["key"], row["policy"], row["served"]) == ("k", "last-write-wins", 1)
    assert [one["site"] for one in row["contenders"]] == ["site-a", "site-b"]
    shown = stack.entrepot("replicate", "conflicts", "--rule", rule, "--open").stdout
    number = str(row["id"])
    assert number in shown.split()
    wrong = stack.entrepot("replicate", "resolve", number, "--take", "both", code=2)
    assert "--take one of: winner, 0, 1" in wrong.stderr
    stack.json("replicate", "resolve", number, "--take", "loser")
    for site in ("site-a", "site-b"):
        body = stack.s3(site).get_object(Bucket=rule, Key="k")["Body"].read()
        assert body == b"by site-a"
    assert stack.json("replicate", "conflicts", "--rule", rule, "--open") == []
    stack.entrepot("replicate", "resolve", number, "--take", "winner")
    body = stack.s3("site-a").get_object(Bucket=rule, Key="k")["Body"].read()
    assert body == b"by site-b"
    stack.json("replicate", "run", rule)
    assert stack.history("site-a", rule) == stack.history("site-b", rule)


def test_a_plan_is_kept_looked_at_and_applied(stack: Running) -> None:
    rule = stack.bucket("plans")
    for key in ("one", "two"):
        stack.s3("site-a").put_object(Bucket=rule, Key=key, Body=b"x")
    stack.json("replicate", "run", rule, "--dry-run", "--save")
    [plan] = [row for row in stack.json("replicate", "plans") if row["rule"] == rule]
    assert (plan["differing"], plan["deletes"], plan["applied_at"]) == (2, 0, None)
    rows = stack.json("replicate", "plans", plan["id"])
    assert rows == [{"key": key, "do": "copy", "at": ["site-b"]} for key in ("one", "two")]
    stack.s3("site-a").put_object(Bucket=rule, Key="two", Body=b"moved")
    stack.json("replicate", "apply", plan["id"])
    assert list(stack.view("site-b", rule)) == ["one"]
    [plan] = [row for row in stack.json("replicate", "plans") if row["rule"] == rule]
    assert plan["applied_at"] is not None


def test_a_mass_deletion_makes_the_run_fail_and_says_what_to_type(stack: Running) -> None:
    rule = stack.bucket("masses")
    for number in range(30):
        stack.s3("site-a").put_object(Bucket=rule, Key=f"k{number:02}", Body=b"x")
    stack.json("replicate", "run", rule)
    for number in range(25):
        stack.s3("site-a").delete_object(Bucket=rule, Key=f"k{number:02}")
    run = stack.replicate(rule, "FAILED")
    assert "would delete more than its rule allows" in run["state"]["message"]
    assert len(stack.view("site-b", rule)) == 30
    [job, *_] = stack.json("replicate", "jobs", "--most", "1")
    assert (job["subject"], job["state"]) == (f"{rule}/{rule}/", "failed")
