"""What is derived from a config: sites, database URLs; and that it stays frozen."""

import pickle

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from entrepot.config import Config
from entrepot.errors import ConfigError

MINIO = {"endpoint": "https://s3.example:9000/", "access_key": "key", "secret_key": "minio secret"}


def config(**sections: object) -> Config:
    return Config.model_validate(sections)


def test_without_regions_the_minio_section_is_the_site() -> None:
    (site,) = config(minio=MINIO).sites()
    assert (site.name, site.region, site.rank) == ("us-east-1", "us-east-1", 0)
    assert site.endpoint == "https://s3.example:9000"
    assert (site.access_key, site.secret_key.get_secret_value()) == ("key", "minio secret")
    assert site.database == "entrepot_site_us_east_1"


def test_sites_fill_in_what_is_not_said_and_sort_by_rank() -> None:
    plain = {"name": "eu-west-1", "endpoint": "http://a:1"}
    own = {"access_key": "k2", "secret_key": "secret two"}
    other = {"name": "b", "endpoint": "http://b:1", "region": "garage", "rank": 9}
    first = {"name": "c", "endpoint": "http://c:1", "rank": 5, "database": "catalog_c"}
    sites = config(minio=MINIO, replication={"regions": [other | own, plain, first]}).sites()
    assert [(s.name, s.rank, s.region, s.database) for s in sites] == [
        ("eu-west-1", 1, "eu-west-1", "entrepot_site_eu_west_1"),
        ("c", 5, "c", "catalog_c"),
        ("b", 9, "garage", "entrepot_site_b"),
    ]
    assert [s.access_key for s in sites] == ["key", "key", "k2"]
    assert sites[2].secret_key.get_secret_value() == "secret two"
    assert sites[1].database_url.get_secret_value().endswith("/catalog_c?connect_timeout=30")


def test_a_site_needs_credentials() -> None:
    with pytest.raises(ConfigError, match="no credentials") as caught:
        config().sites()
    assert "minio.access_key" in caught.value.hint


@pytest.mark.parametrize("host", ["db.example", "10.0.0.1", "::1", "/run/postgresql"])
def test_the_database_url_says_what_the_section_says(host: str) -> None:
    made = config(database={"host": host, "user": "u@/:", "password": "p%@/?#[é", "port": 5433})
    url = make_url(made.database_url("data-base").get_secret_value())
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.database) == ("u@/:", "p%@/?#[é", "data-base")
    query = dict(url.query)
    assert query.pop("connect_timeout") == "30"
    if host.startswith("/"):
        assert query == {"host": host, "port": "5433"}
        assert not url.host
    else:
        assert (url.host, url.port, query) == (host, 5433, {})


def test_a_database_name_that_no_url_can_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="name of a database"):
        config().database_url("data?base")


def test_without_password_the_url_has_none() -> None:
    url = make_url(config().database_url().get_secret_value())
    assert (url.username, url.password, url.database) == ("entrepot", None, "entrepot")


@pytest.mark.parametrize("host", ["a/b", "a@b", "a b", "a?b", "/run?x", ""])
def test_a_host_cannot_smuggle_a_url(host: str) -> None:
    with pytest.raises(ValidationError):
        config(database={"host": host})


def test_frozen() -> None:
    made = config()
    with pytest.raises(ValidationError):
        made.server.port = 1  # type: ignore[misc]


def test_it_comes_back_from_pickle_and_dump() -> None:
    made = config(minio=MINIO, replication={"regions": [{"name": "a", "endpoint": "http://a"}]})
    assert pickle.loads(pickle.dumps(made)) == made
    assert Config.model_validate(made.model_dump()) == made


def test_secrets_lists_them_all() -> None:
    region = {"name": "a", "endpoint": "http://a", "access_key": "k", "secret_key": "two"}
    made = config(minio=MINIO, replication={"regions": [region]}, prefect={"auth_string": "u:p"})
    values = [secret.get_secret_value() for secret in made.secrets()]
    assert values == ["minio secret", "two", "u:p"]


REGIONS = {"regions": [{"name": "a", "endpoint": "http://a:1"}]}
AT_A = {"name": "near", "site": "a", "bucket": "backups", "prefix": "x/"}
AWAY = {"name": "far", "endpoint": "http://c:1", "bucket": "backups", "region": "c"}
AWAY |= {"access_key": "k", "secret_key": "far away"}


def test_a_vault_takes_from_its_site_what_it_does_not_say() -> None:
    made = config(minio=MINIO, replication=REGIONS, backup={"vaults": [AT_A, AWAY]})
    near, far = made.vault("near"), made.vault("far")
    assert (near.endpoint, near.region, near.prefix) == ("http://a:1", "a", "x/")
    assert (near.access_key, near.secret_key.get_secret_value()) == ("key", "minio secret")
    assert (far.site, far.endpoint, far.region) == ("", "http://c:1", "c")
    assert (far.access_key, far.secret_key.get_secret_value()) == ("k", "far away")
    with pytest.raises(ConfigError, match="no vault of that name") as caught:
        made.vault("other")
    assert "near, far" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        AT_A | {"endpoint": "http://c:1"},
        AT_A | {"site": None},
        AT_A | {"access_key": "k"},
        AWAY | {"secret_key": None},
        AT_A | {"prefix": "x"},
        AT_A | {"prefix": "/x/"},
        AT_A | {"bucket": "No"},
    ],
)
def test_a_vault_says_one_place_and_how_to_reach_it(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(minio=MINIO, backup={"vaults": [wrong]})


def test_a_vault_at_no_site_is_said_where_it_is_opened() -> None:
    made = config(minio=MINIO, replication=REGIONS, backup={"vaults": [AT_A | {"site": "b"}]})
    with pytest.raises(ConfigError, match="none of the sites"):
        made.vault("near")


def test_a_cluster_is_named_or_the_only_one() -> None:
    shop = {"name": "shop", "vault": "near", "conninfo": "host=db password=hushed"}
    one = config(minio=MINIO, backup={"clusters": [shop]})
    assert one.cluster() == one.cluster("shop") == one.backup.clusters[0]
    assert "hushed" not in repr(one)
    two = config(minio=MINIO, backup={"clusters": [shop, shop | {"name": "blog"}]})
    assert two.cluster("blog").name == "blog"
    for made, name in ((two, None), (one, "blog"), (config(minio=MINIO), None)):
        with pytest.raises(ConfigError, match="cluster"):
            made.cluster(name)
    with pytest.raises(ValidationError):
        config(minio=MINIO, backup={"clusters": [shop, shop]})
