"""``entrepot config show`` and ``docs/settings.md``: origins, landed keys, and masked secrets."""

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from entrepot.cli.config import config as command
from entrepot.config import load_marked
from entrepot.config.document import render
from entrepot.config.explain import explain, unused
from entrepot.config.schema import MASK, limits_of, settings
from entrepot.errors import ConfigError

TEXT = """\
server:
  port: 81
minio: {access_key: "${KEY}", secret_key: "${SECRET}"}
caching:
  l1_max_size: 2048Mi
replication:
  regions:
    - name: a
      endpoint: http://a:${PORT:-9000}
      access_key: k
      secret_key: "${SECRET}"
security: {secrets_key: "${FERNET}", allowed_origins: ["https://a.example", "*"]}
database: {password: "${SECRET}"}
prefect: {auth_string: "${SECRET}"}
"""
LANDED = """
server.host server.port server.public_url minio.endpoint minio.access_key minio.secret_key
minio.use_ssl minio.region minio.max_connections minio.connection_pool_size replication.enabled
replication.regions replication.regions[].name replication.regions[].endpoint
replication.regions[].access_key replication.regions[].secret_key replication.regions[].region
replication.regions[].rank replication.regions[].database replication.regions[].notify_token
replication.worker_threads replication.batch_size monitoring.metrics_enabled
monitoring.log_level security.secrets_key
database.type database.host database.port database.name database.user database.password
database.max_connections database.connection_timeout prefect.api_url prefect.auth_string
prefect.work_pool caching.compression.codec caching.compression.min_size encryption.algorithm
encryption.key_management encryption.ring encryption.cache_ttl encryption.local.path
encryption.local.passphrase encryption.local.credential encryption.vault.address
encryption.vault.token encryption.vault.token_file encryption.vault.key_name encryption.vault.mount
encryption.vault.namespace encryption.vault.ca_file encryption.kms.endpoint encryption.kms.key_id
encryption.kms.region encryption.kms.access_key encryption.kms.secret_key encryption.enabled
caching.compression.enabled
backup.vaults backup.vaults[].name backup.vaults[].bucket backup.vaults[].prefix
backup.vaults[].site backup.vaults[].endpoint backup.vaults[].access_key
backup.vaults[].secret_key backup.vaults[].region
backup.clusters backup.clusters[].name backup.clusters[].vault backup.clusters[].conninfo
backup.clusters[].socket
    replication.batch_timeout replication.max_replication_delay
    replication.retry_policy.max_retries replication.retry_policy.initial_backoff
    replication.retry_policy.max_backoff
"""
MARKER = "Zq9#"
SECRETS = st.text(max_size=40).map(lambda text: MARKER + text)
FERNET = base64.urlsafe_b64encode(b"Zq9#" * 8).decode()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "config.yaml"
    path.write_text(TEXT)
    return path


def _env(secret: str) -> dict[str, str]:
    return {"KEY": "AKIA", "SECRET": secret, "FERNET": FERNET}


def test_rows_say_value_and_origin(path: Path) -> None:
    rows = {row.key: row for row in explain(load_marked(path, env=_env("hunter22")))}
    seen = {key: (row.value, row.origin, row.line, row.variables) for key, row in rows.items()}
    assert seen["server.host"] == ("127.0.0.1", "default", 0, ())
    assert seen["server.port"] == (81, "file", 2, ())
    assert seen["minio.access_key"] == ("AKIA", "env", 3, ("KEY",))
    assert seen["minio.secret_key"] == (MASK, "env", 3, ("SECRET",))
    assert seen["caching.l1.max_size"] == ("2Gi", "file", 5, ())
    assert seen["replication.regions[0].endpoint"] == ("http://a:9000", "file", 9, ())
    assert seen["replication.regions[0].rank"] == (None, "default", 0, ())
    assert seen["security.allowed_origins"][:3] == (["https://a.example", "*"], "file", 12)
    assert seen["database.connection_timeout"] == ("30s", "default", 0, ())


def test_an_empty_list_of_sites_has_a_row(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    rows = {row.key: row for row in explain(load_marked(tmp_path / "config.yaml", env={}))}
    assert rows["replication.regions"].value == []


def test_what_has_landed() -> None:
    assert {setting.key for setting in settings() if setting.is_landed} == set(LANDED.split())


def test_keys_that_are_set_but_not_used_are_known(path: Path) -> None:
    keys = unused(load_marked(path, env=_env("hunter22")))
    assert keys == ("caching.l1.max_size", "security.allowed_origins")


def test_every_setting_is_described_and_every_number_bounded() -> None:
    for setting in settings():
        assert setting.field.description, setting.key
        if setting.field.annotation in (int, int | None):
            assert None not in limits_of(setting.field), setting.key


def test_show_prints_a_line_a_setting(path: Path) -> None:
    result = CliRunner().invoke(command, ["show", "--config", str(path)], env=_env("hunter22"))
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.output.splitlines()}
    assert lines["server.port"].split(None, 2)[1:] == ["81", "file, line 2"]
    assert lines["caching.l1.max_size"].endswith("not used yet")
    assert "env, line 3 (SECRET)" in lines["minio.secret_key"]


def test_show_json_is_one_object(path: Path) -> None:
    arguments = ["show", "--json", "--config", str(path)]
    result = CliRunner().invoke(command, arguments, env=_env("hunter22"))
    report = json.loads(result.output)
    assert report["path"] == str(path)
    rows = {row.pop("key"): row for row in report["settings"]}
    assert rows["server.port"] == {
        "value": 81,
        "origin": "file",
        "line": 2,
        "variables": [],
        "landed": True,
    }
    assert not rows["caching.enabled"]["landed"]


@given(SECRETS)
@hypothesis_settings(deadline=None)  # reads files
def test_no_output_holds_a_secret(path: Path, secret: str) -> None:
    loaded = load_marked(path, env=_env(secret))
    config = loaded.config
    assert config.minio.secret_key
    assert config.minio.secret_key.get_secret_value() == secret
    rows = explain(loaded)
    shown = [
        *(str(row.text()) for row in rows),
        json.dumps([row.json() for row in rows]),
        f"{config!r} {config} {config.sites()!r} {config.database_url()!r}",
        config.model_dump_json(),
        str(config.model_dump()),
        repr(loaded),
    ]
    for text in shown:
        assert MARKER not in text
        assert FERNET not in text


@given(SECRETS)
@hypothesis_settings(deadline=None)  # reads files
def test_no_refusal_holds_a_secret(path: Path, secret: str) -> None:
    broken = path.parent / "broken.yaml"
    keys = ("minio.secret_kye", "server.port", "server.public_url", "caching.l1.max_size")
    lines = [f"{a}: {{{b}: '${{SECRET}}'}}" for a, b in (key.split(".", 1) for key in keys[:1])]
    lines += ["server: {port: '${SECRET}', public_url: 'http://u:${SECRET}@h'}"]
    lines += ["caching: {l1: {max_size: '${SECRET}'}, l1_max_size: 1Gi}", "database: '${SECRET}'"]
    lines += ["security: {secrets_key: '${SECRET}'}"]
    broken.write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        load_marked(broken, env={"SECRET": secret})
    assert MARKER not in f"{caught.value} {caught.value!r} {caught.value.hint}"
    assert len(str(caught.value).splitlines()) == 7


def test_the_page_of_settings_is_current() -> None:
    page = Path(__file__).parents[2] / "docs/settings.md"
    assert page.read_text(encoding="utf-8") == render(), "run python -m entrepot.config.document"
