"""Reading config.yaml: the guide's own files, where a file is found, and every way to be wrong."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from entrepot.config import Config, find_config, load, load_marked
from entrepot.config.schema import OTHER_SPELLINGS, settings
from entrepot.config.source import MAX_BYTES
from entrepot.errors import ConfigError

GUIDE = Path(__file__).parent / "guide"
ENV = {
    "MINIO_ACCESS_KEY": "AKIAEXAMPLE",
    "MINIO_SECRET_KEY": "long enough",
    "KMS_KEY_ID": "key-1",
    "DB_USER": "minio",
    "DB_PASSWORD": "p@ss:w/rd",
}
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the text of a config file."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path: Path, env: dict[str, str] | None = None) -> list[str]:
    """What ``load`` says about the file, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(path, env=env or {})
    lines = caught.value.message.split("\n")
    assert all(line.startswith(str(path)) for line in lines)
    return [line.removeprefix(str(path)).lstrip(":") for line in lines]


# --- the guide


def test_the_guides_file_is_accepted_whole() -> None:
    config = load(GUIDE / "config.yaml", env=ENV)
    assert config.server.host == "0.0.0.0"
    assert config.caching.l2.max_size == 500 * 1024**3
    assert config.caching.l3.ttl == 7 * 86_400_000
    assert config.caching.compression.min_size == 1_000_000
    assert config.replication.retry_policy.max_backoff == 5000
    assert config.security.tls_min_version == "1.3"
    assert config.database.password == SecretStr("p@ss:w/rd")
    assert config.encryption.kms.key_id == "key-1"
    assert [site.name for site in config.sites()] == ["us-east-1", "eu-west-1", "ap-south-1"]


def test_every_key_of_the_guides_file_has_its_own_setting() -> None:
    loaded = load_marked(GUIDE / "config.yaml", env=ENV)
    leaves = {mark.written for mark in loaded.marks.values() if mark.raw is not None}
    assert len(leaves) == 70
    assert leaves <= set(loaded.marks)


def test_the_guides_config_map_is_accepted_whole() -> None:
    config = load(GUIDE / "configmap.yaml", env={})
    assert config.caching.l1.max_size == 50 * 1024**3
    assert config.caching.l2.max_size == 500 * 1024**3
    assert config.caching.compression.min_size == 1_000_000
    assert config.replication.mode == "active-active"
    assert config.monitoring.detailed_logs


def test_the_guides_tuning_is_accepted_whole() -> None:
    config = load(GUIDE / "tuning.yaml", env={})
    assert (config.minio.max_connections, config.minio.connection_pool_size) == (10_000, 100)
    assert config.caching.l1.eviction_policy == "arc"
    assert config.caching.prefetch_distance == 10
    assert config.replication.batch_timeout == 100


def test_other_spellings_stand_for_keys_that_exist() -> None:
    known = {setting.key for setting in settings()}
    assert set(OTHER_SPELLINGS.values()) <= known
    assert not known & set(OTHER_SPELLINGS)


def test_active_active_false_is_a_mode(write: Write) -> None:
    config = load(write("replication:\n  active_active: false\n"), env={})
    assert config.replication.mode == "active-passive"


@pytest.mark.parametrize("section", ["", "  l1:\n", "  l1: {}\n", "  l1: {eviction_policy: arc}\n"])
def test_other_spellings_join_their_section(write: Write, section: str) -> None:
    config = load(write(f"caching:\n{section}  l1_max_size: 7Gi\n"), env={})
    assert config.caching.l1.max_size == 7 * 1024**3


def test_an_empty_file_is_all_defaults_and_closed(write: Write) -> None:
    config = load(write(""), env={})
    assert config == Config()
    assert config.server.host == "127.0.0.1"
    assert config.minio.secret_key is None


def test_empty_sections_are_their_defaults(write: Write) -> None:
    assert load(write("caching:\n  l1:\nserver: {}\n"), env={}) == Config()


# --- finding the file


def test_the_named_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("named", "variable", "here/config", "data/config")
    files = [tmp_path / f"{name}.yaml" for name in names]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    monkeypatch.chdir(tmp_path / "here")
    env = {"ENTREPOT_CONFIG": str(files[1]), "ENTREPOT_DATA": str(tmp_path / "data")}
    assert find_config(files[0], env=env) == files[0]
    assert find_config(env=env) == files[1]
    del env["ENTREPOT_CONFIG"]
    assert find_config(env=env).resolve() == files[2]
    files[2].unlink()
    assert find_config(env=env) == files[3]
    files[3].unlink()
    with pytest.raises(ConfigError, match="no config file") as caught:
        find_config(env=env)
    assert "entrepot up" in caught.value.hint


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load(tmp_path / "config.yaml", env={})


# --- refusals, each with its line

WRONG = {
    "a typo": ("server:\n  prot: 1\n", ["2: server.prot: unknown key, did you mean server.port"]),
    "a section's typo": ("cachng: {}\n", ["1: cachng: unknown key, did you mean caching"]),
    "a key in the wrong section": (
        "server:\n\n  worker_threads: 3\n",
        ["3: server.worker_threads: unknown key, did you mean replication.worker_threads"],
    ),
    "a key like no other": (
        "prefect:\n  zzzz: 3\n",
        ["2: prefect.zzzz: unknown key, known here are api_url, auth_string, work_pool"],
    ),
    "a bad size": (
        "caching:\n  l1:\n    max_size: 50Gb\n",
        ["3: caching.l1.max_size: not a size, write it like 50Gi, 1MB or 512, not '50Gb'"],
    ),
    "a duration without unit": (
        "database:\n  connection_timeout: 30\n",
        [
            "2: database.connection_timeout: not a duration, "
            "write it like 100ms, 24h or 1h30m, not '30'"
        ],
    ),
    "not a number": (
        "server:\n  port: http\n",
        ["2: server.port: expected integer, not 'http'"],
    ),
    "a truth where a number goes": (
        "server:\n  port: true\n",
        ["2: server.port: expected integer, not 'true'"],
    ),
    "not a truth": (
        "caching: {enabled: perhaps}\n",
        ["1: caching.enabled: expected true or false, not 'perhaps'"],
    ),
    "not one of the choices": (
        "caching:\n  l1_eviction_policy: fifo\n",
        ["2: caching.l1_eviction_policy: expected 'lru' or 'arc', not 'fifo'"],
    ),
    "too much": (
        "server:\n  port: 99999\n",
        ["2: server.port: must be from 1 to 65535, not '99999'"],
    ),
    "too short a time": (
        "database:\n  connection_timeout: 1ms\n",
        ["2: database.connection_timeout: must be from 1s to 10m, not '1ms'"],
    ),
    "a value where a section goes": ("server: 8080\n", ["1: server: must hold keys and values"]),
    "a section where a value goes": (
        "server:\n  port:\n    number: 1\n",
        ["2: server.port: expected integer"],
    ),
    "a value where a list goes": (
        "replication:\n  regions: here\n",
        ["2: replication.regions: must be a list"],
    ),
    "nothing where a value goes": (
        "server:\n  port:\n",
        ["2: server.port: expected integer, not ''"],
    ),
    "a site without its endpoint": (
        "replication:\n  regions:\n    - name: a\n",
        ["3: replication.regions[0].endpoint: is required"],
    ),
    "an endpoint without scheme": (
        "minio:\n  endpoint: minio:9000\n",
        ["2: minio.endpoint: not a URL, write it like https://host:9000"],
    ),
    "a URL with a password": (
        "prefect:\n  api_url: http://me:hunter2@host/api\n",
        ["2: prefect.api_url: not a URL, write it like https://host:9000"],
    ),
    "TLS against the endpoint's scheme": (
        "minio:\n  endpoint: http://minio:9000\n  use_ssl: true\n",
        ["3: minio.use_ssl: contradicts minio.endpoint, which is http"],
    ),
    "TLS without its files": (
        "server:\n  tls:\n    enabled: true\n",
        ["2: server.tls.cert_file: is required where server.tls.enabled is true"],
    ),
    "a pool above its limit": (
        "minio:\n  max_connections: 10\n",
        ["1: minio.connection_pool_size: 64 is above minio.max_connections, 10"],
    ),
    "two sites of one name": (
        "replication:\n  regions:\n    - {name: a, endpoint: http://a}\n"
        "    - {name: a, endpoint: http://b}\n",
        ["4: replication.regions[1].name: a is taken by another site"],
    ),
    "two sites of one rank": (
        "replication:\n  regions:\n    - {name: a, endpoint: http://a, rank: 1}\n"
        "    - {name: b, endpoint: http://b}\n",
        ["4: replication.regions[1].rank: 1 is taken by another site"],
    ),
    "half a pair of keys": (
        "replication:\n  regions:\n    - name: a\n      endpoint: http://a\n      access_key: x\n",
        [
            "3: replication.regions[0].secret_key: "
            "is required where the other key of the site is given"
        ],
    ),
    "a key twice": (
        "server:\n  port: 1\n  host: h\n  port: 2\n",
        ["4: server.port: given twice, first on line 2"],
    ),
    "two spellings of a key": (
        "caching:\n  l1_max_size: 1Gi\n  l1:\n    max_size: 1Gi\n",
        ["2: caching.l1_max_size: is another spelling of caching.l1.max_size, keep one of them"],
    ),
    "an unset variable": (
        "database:\n  user: ${DB_USR}\n",
        ["2: database.user: variable DB_USR is not set, did you mean DB_USER"],
    ),
    "an open brace": (
        "database:\n  user: ${DB_USER\n",
        ["2: database.user: '${' without a name and '}', write $$ for a dollar sign"],
    ),
    "a key that is not a Fernet key": (
        "security:\n  secrets_key: c2hvcnQ=\n",
        [
            "2: security.secrets_key: not a Fernet key (32 bytes in URL-safe base64),"
            " or several with commas"
        ],
    ),
    "a tag": (
        "server: !!python/object:os.system {}\n",
        ["1: server: tags are not supported"],
    ),
    "a list at the top": ("- a\n", ["1: must be keys and values"]),
    "a key that is no text": ("? [a]\n: b\n", ["1: a key must be text"]),
    "a merge key": (
        "server: {<<: {port: 1}}\n",
        ["1: server.<<: unknown key, known here are host, port, public_url, tls"],
    ),
    "a well-known password": (
        "database:\n  password: password\n",
        ["2: database.password: a well-known default, choose another or use --insecure-demo"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG)
def test_refuses(write: Write, text: str, expected: list[str]) -> None:
    assert problems(write(text), {"DB_USER": "me"}) == expected


def test_all_problems_come_together_in_the_order_of_the_file(write: Write) -> None:
    path = write(
        "server:\n  prot: 1\n  port: ${NOPE}\ncaching:\n  l2:\n    ttl: 1 day\nlogging: {}\n"
    )
    assert [line.split(":")[0] for line in problems(path)] == ["2", "3", "6", "7"]


@pytest.mark.parametrize(
    ("text", "line"), [("server:\n\tport: 1\n", 2), ("a: [1\nb: 2\n", 2), ("a: 1\n---\nb: 2\n", 2)]
)
def test_broken_yaml_names_the_line(write: Write, text: str, line: int) -> None:
    (problem,) = problems(write(text))
    assert problem.startswith(f"{line}: not valid YAML")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 100_000,
        "a: &a\n  b: *a\n",
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
        "a: 1\n" + "#" * MAX_BYTES,
    ],
    ids=["brackets", "braces", "dashes", "a loop", "a billion", "too large"],
)
def test_hostile_shapes_are_bounded(write: Write, text: str) -> None:
    (problem,) = problems(write(text))
    assert any(word in problem for word in ("nested", "aliases", "larger"))


def test_aliases_work(write: Write) -> None:
    config = load(write("caching:\n  l2: {ttl: &day 24h}\n  l3:\n    ttl: *day\n"), env={})
    assert config.caching.l2.ttl == config.caching.l3.ttl


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"server:\n  host: \xff\n")
    assert problems(path) == ["2: not UTF-8"]


def test_a_value_keeps_its_text_whatever_yaml_makes_of_it(write: Write) -> None:
    config = load(write("database: {name: 0123, user: no}\nprefect: {work_pool: 1e3}\n"), env={})
    assert (config.database.name, config.database.user) == ("0123", "no")
    assert config.prefect.work_pool == "1e3"


# --- default credentials


@pytest.mark.parametrize("secret", ["minioadmin", "minioadmin123", "password"])
@pytest.mark.parametrize(
    "text",
    [
        "minio: {{access_key: minioadmin, secret_key: {0}}}",
        "database: {{password: {0}}}",
        "prefect: {{auth_string: {0}}}",
        "replication:\n  regions:\n    - {{name: a, endpoint: http://a, "
        "access_key: k, secret_key: {0}}}",
    ],
    ids=["minio", "database", "prefect", "region"],
)
def test_default_credentials_are_for_insecure_demos(write: Write, text: str, secret: str) -> None:
    path = write(text.format("'${SECRET}'"))
    (problem,) = problems(path, {"SECRET": secret})
    assert "--insecure-demo" in problem
    assert secret not in problem.replace("database.password", "")
    load(path, env={"SECRET": secret}, insecure_demo=True)


def test_fixtures_are_yaml() -> None:
    for path in GUIDE.iterdir():
        assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_several_fernet_keys_are_taken(write: Write) -> None:
    """The first encrypts, the others still decrypt: how a key is rotated."""
    keys = ",".join(base64.urlsafe_b64encode(bytes([n]) * 32).decode() for n in (1, 2))
    config = load(write(f"security:\n  secrets_key: {keys}\n"), env={"DB_USER": "me"})
    assert config.security.secrets_key is not None
    assert config.security.secrets_key.get_secret_value() == keys
