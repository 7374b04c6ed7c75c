"""One contract over every root: file, passphrase, systemd credential, OpenBao, key service."""

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from entrepot.clock import new_bytes
from entrepot.codec.keys.kms import KmsRoot
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.root import Root
from entrepot.codec.keys.vault import VaultRoot
from entrepot.embedded.process import HOST, free_port
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    SetupError,
    Throttled,
    Unavailable,
)
from tests.codec.keys.servers import BaoServer, KmsServer
from tests.codec.keys.tools import CHEAP, PASSPHRASE

SALT = bytes(16)
SHORT_S = 1.0


class RootContract:
    """What any root promises; ``root`` and ``twin`` have one key, ``stranger`` has another."""

    root: Root
    twin: Root
    stranger: Root
    refusals: tuple[type[EntrepotError], ...] = (IntegrityError,)

    @pytest.fixture(autouse=True)
    async def close(self) -> AsyncIterator[None]:
        yield
        for root in (self.root, self.twin, self.stranger):
            await root.close()

    async def test_round_trip_also_by_another_process_of_the_same_key(self) -> None:
        secret = new_bytes(32)
        wrapped = await self.root.wrap(secret, context="mine")
        assert secret not in wrapped
        assert await self.root.unwrap(wrapped, context="mine") == secret
        assert await self.twin.unwrap(wrapped, context="mine") == secret
        assert self.root.name == self.twin.name != self.stranger.name

    async def test_the_same_secret_is_never_wrapped_alike(self) -> None:
        secret = new_bytes(32)
        wraps = [await self.root.wrap(secret, context="mine") for _ in range(3)]
        assert len(set(wraps)) == 3

    @pytest.mark.parametrize("context", ["yours", "", "mine ", "Mine"])
    async def test_another_context_is_refused(self, context: str) -> None:
        wrapped = await self.root.wrap(new_bytes(32), context="mine")
        with pytest.raises(IntegrityError):
            await self.root.unwrap(wrapped, context=context)

    async def test_another_root_key_is_refused(self) -> None:
        wrapped = await self.root.wrap(new_bytes(32), context="mine")
        with pytest.raises(self.refusals):
            await self.stranger.unwrap(wrapped, context="mine")

    async def test_damage_is_refused(self) -> None:
        wrapped = await self.root.wrap(new_bytes(32), context="mine")
        step = max(1, len(wrapped) // 12)
        damaged = [
            wrapped[:at] + bytes([wrapped[at] ^ 1 << at % 8]) + wrapped[at + 1 :]
            for at in [*range(0, len(wrapped), step), len(wrapped) - 1]
        ]
        cut = [wrapped[:at] for at in range(0, len(wrapped), step)]
        for each in [*damaged, *cut, wrapped + b"\x00", wrapped * 2, b"\xff" * 60]:
            with pytest.raises(self.refusals):
                await self.root.unwrap(each, context="mine")

    async def test_many_at_once(self) -> None:
        secrets = [new_bytes(32) for _ in range(24)]

        async def there_and_back(n: int) -> bytes:
            wrapped = await self.root.wrap(secrets[n], context=str(n))
            return await self.twin.unwrap(wrapped, context=str(n))

        assert await asyncio.gather(*map(there_and_back, range(24))) == secrets

    async def test_no_secret_in_logs_errors_and_reprs(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        secret = b"secret-of-32-bytes-to-search-for"
        caplog.set_level(logging.DEBUG)
        wrapped = await self.root.wrap(secret, context="mine")
        await self.root.unwrap(wrapped, context="mine")
        with pytest.raises(IntegrityError) as caught:
            await self.root.unwrap(wrapped, context="yours")
        shown = caplog.text + repr(self.root) + str(caught.value) + repr(caught.value)
        shown += repr(pickle.dumps(caught.value))
        for form in ("secret-of-32", "c2VjcmV0LW9mLTMy", secret.hex()):
            assert form not in shown


class TestFile(RootContract):
    """``LocalRoot.from_file``."""

    @pytest.fixture(autouse=True)
    def roots(self, tmp_path: Path) -> None:
        self.root = LocalRoot.create_file(tmp_path / "root.key")
        self.twin = LocalRoot.from_file(tmp_path / "root.key")
        self.stranger = LocalRoot.create_file(tmp_path / "other.key")


class TestPassphrase(RootContract):
    """``LocalRoot.from_passphrase``."""

    @pytest.fixture(autouse=True)
    def roots(self) -> None:
        self.root, self.twin = (
            LocalRoot.from_passphrase(PASSPHRASE, salt=SALT, cost=CHEAP) for _ in range(2)
        )
        self.stranger = LocalRoot.from_passphrase(PASSPHRASE, salt=b"1" * 16, cost=CHEAP)


class TestSystemdCredential(RootContract):
    """``LocalRoot.from_systemd_credential``, with the directory that systemd would make."""

    @pytest.fixture(autouse=True)
    def roots(self, tmp_path: Path) -> None:
        for name in ("ours", "other"):
            (tmp_path / name).write_bytes(new_bytes(32))
            (tmp_path / name).chmod(0o440)  # root's, with an access list for the service
        env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
        self.root = LocalRoot.from_systemd_credential("ours", env=env)
        self.twin = LocalRoot.from_systemd_credential("ours", env=env)
        self.stranger = LocalRoot.from_systemd_credential("other", env=env)


class TestVault(RootContract):
    """``VaultRoot`` over a real OpenBao, with a token that may encrypt and decrypt only."""

    @pytest.fixture(autouse=True)
    async def roots(self, bao: BaoServer) -> None:
        self.root, self.stranger = bao.root(), bao.root()
        key = self.root.name.rpartition("/")[2]
        self.twin = bao.root(key)


class TestKms(RootContract):
    """``KmsRoot`` over a real moto server; its wrapped keys begin with the id of the key."""

    refusals = (IntegrityError, AccessDenied)

    @pytest.fixture(autouse=True)
    async def roots(self, kms: KmsServer) -> None:
        self.root, self.stranger = kms.root(), kms.root()
        self.twin = kms.root(self.root.name.removeprefix("kms:"))


# --- local


def test_a_root_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    LocalRoot.create_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(AccessDenied, match="open to others") as caught:
            LocalRoot.from_file(path)
        assert f"chmod 600 {path}" in caught.value.hint
    path.chmod(0o400)
    LocalRoot.from_file(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_root_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    LocalRoot.create_file(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(AccessDenied, match="another user") as caught:
        LocalRoot.from_file(path)
    assert caught.value.hint == f"chown 0 {path}"


def test_a_link_in_place_of_the_root_key_is_not_followed(tmp_path: Path) -> None:
    LocalRoot.create_file(tmp_path / "root.key")
    (tmp_path / "link").symlink_to("root.key")
    with pytest.raises(EntrepotError):
        LocalRoot.from_file(tmp_path / "link")


def test_a_pipe_in_place_of_the_root_key_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root.key", 0o600)
    with pytest.raises(IntegrityError, match="regular file"):
        LocalRoot.from_file(tmp_path / "root.key")


def test_missing_and_cut_root_keys_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no such secret") as caught:
        LocalRoot.from_file(tmp_path / "root.key")
    assert "entrepot keys init" in caught.value.hint
    for size_bytes in (0, 31, 33, 70_000):
        (tmp_path / "root.key").write_bytes(bytes(size_bytes))
        (tmp_path / "root.key").chmod(0o600)
        with pytest.raises((SetupError, IntegrityError), match="bytes"):
            LocalRoot.from_file(tmp_path / "root.key")


def test_a_root_key_is_never_overwritten(tmp_path: Path) -> None:
    first = LocalRoot.create_file(tmp_path / "root.key")
    with pytest.raises(AlreadyExists):
        LocalRoot.create_file(tmp_path / "root.key")
    assert LocalRoot.from_file(tmp_path / "root.key").name == first.name


def test_passphrases_are_long_and_accents_count_alike() -> None:
    with pytest.raises(InvalidInput, match="fewer than 12"):
        LocalRoot.from_passphrase(SecretStr("short"), salt=SALT, cost=CHEAP)
    names = {
        LocalRoot.from_passphrase(SecretStr(text), salt=SALT, cost=CHEAP).name
        for text in ("caf\u00e9 caf\u00e9 caf\u00e9", "cafe\u0301 cafe\u0301 cafe\u0301")
    }
    assert len(names) == 1


@pytest.mark.parametrize("name", ["absent", "../root.key", "/etc/passwd", ""])
def test_a_credential_that_systemd_did_not_give(tmp_path: Path, name: str) -> None:
    (tmp_path / "given").mkdir()
    LocalRoot.create_file(tmp_path / "root.key")
    for env in ({}, {"CREDENTIALS_DIRECTORY": str(tmp_path / "given")}):
        with pytest.raises(SetupError):
            LocalRoot.from_systemd_credential(name, env=env)


def test_a_credential_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours").write_bytes(bytes(32))
    (tmp_path / "ours").chmod(0o444)
    with pytest.raises(AccessDenied):
        LocalRoot.from_systemd_credential("ours", env={"CREDENTIALS_DIRECTORY": str(tmp_path)})


# --- servers


@contextlib.contextmanager
def hanging(pid: int) -> Iterator[None]:
    """While it lasts, the process takes connections and says nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def closing(root: Root) -> AsyncIterator[Root]:
    try:
        yield root
    finally:
        await root.close()


@contextlib.asynccontextmanager
async def answering(text: bytes) -> AsyncIterator[str]:
    """The address of a server that gives every request this answer and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(text)
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"


async def expect_unavailable(root: Root, wrapped: bytes = b"x") -> Unavailable:
    with pytest.raises(Unavailable):
        await root.wrap(bytes(32), context="c")
    with pytest.raises(Unavailable) as caught:
        await root.unwrap(wrapped, context="c")
    assert caught.value.fields["root"] == root.name
    assert caught.value.hint or caught.value.message
    return caught.value


async def test_a_vault_that_hangs_is_unavailable_soon(bao: BaoServer) -> None:
    async with closing(bao.root(timeout_s=SHORT_S)) as root:
        wrapped = await root.wrap(bytes(32), context="c")
        with hanging(bao.pid):
            assert "ReadTimeout" in (await expect_unavailable(root, wrapped)).message
        assert await root.unwrap(wrapped, context="c") == bytes(32)


async def test_a_key_service_that_hangs_is_unavailable_soon(kms: KmsServer) -> None:
    async with closing(kms.root(timeout_s=SHORT_S)) as root:
        wrapped = await root.wrap(bytes(32), context="c")
        with hanging(kms.pid):
            assert "ReadTimeout" in (await expect_unavailable(root, wrapped)).message
        assert await root.unwrap(wrapped, context="c") == bytes(32)


async def test_where_nothing_listens_roots_are_unavailable() -> None:
    nowhere = f"http://{HOST}:{free_port()}"
    async with closing(VaultRoot(nowhere, SecretStr("t"), "k")) as root:
        assert "encryption.vault.address" in (await expect_unavailable(root)).hint
    access = KmsServer.ACCESS
    async with closing(KmsRoot(nowhere, "k", region="r", **access)) as root:
        assert "encryption.kms.endpoint" in (await expect_unavailable(root)).hint


async def test_vault_refusals_say_what_to_do(bao: BaoServer) -> None:
    key, rsa = bao.new_key(), bao.new_key(type="rsa-2048")
    root_token = SecretStr(bao.root_token)
    cases: list[tuple[VaultRoot, type[EntrepotError], str]] = [
        (VaultRoot(bao.address, SecretStr("nonsense"), key), AccessDenied, "renew"),
        (VaultRoot(bao.address, bao.token(key, "decrypt"), key), AccessDenied, "policy"),
        (VaultRoot(bao.address, root_token, key, mount="nowhere"), SetupError, "bao write"),
        (VaultRoot(bao.address, root_token, rsa), SetupError, "aes256-gcm96"),
        (bao.root("key-that-nobody-made"), AccessDenied, "policy"),
    ]
    for root, kind, hint in cases:
        async with closing(root):
            with pytest.raises(kind) as caught:
                await root.wrap(bytes(32), context="c")
            assert hint in caught.value.hint
            assert bao.root_token not in repr(caught.value) + repr(root)


async def test_a_deleted_transit_key_is_no_damage(bao: BaoServer) -> None:
    key = bao.new_key()
    async with closing(VaultRoot(bao.address, SecretStr(bao.root_token), key)) as root:
        wrapped = await root.wrap(bytes(32), context="c")
        bao.request("POST", f"transit/keys/{key}/config", {"deletion_allowed": True})
        bao.request("DELETE", f"transit/keys/{key}")
        with pytest.raises(SetupError, match="not found"):
            await root.unwrap(wrapped, context="c")


async def test_a_transit_key_can_be_rotated_by_its_server(bao: BaoServer) -> None:
    key = bao.new_key()
    async with closing(bao.root(key)) as root:
        wrapped = await root.wrap(bytes(32), context="c")
        bao.request("POST", f"transit/keys/{key}/rotate", {})
        assert await root.unwrap(wrapped, context="c") == bytes(32)
        assert (await root.wrap(bytes(32), context="c")).startswith(b"vault:v2:")


async def test_an_agents_token_is_read_when_it_is_new(bao: BaoServer, tmp_path: Path) -> None:
    key, sink = bao.new_key(), tmp_path / "token"
    sink.write_text("expired")
    sink.chmod(0o600)
    async with closing(VaultRoot(bao.address, sink, key)) as root:
        with pytest.raises(AccessDenied):
            await root.wrap(bytes(32), context="c")
        sink.write_text(bao.token(key, "encrypt").get_secret_value() + "\n")
        assert await root.wrap(bytes(32), context="c")
        sink.chmod(0o644)
        with pytest.raises(AccessDenied, match="open to others"):
            await root.wrap(bytes(32), context="c")


@pytest.mark.parametrize("body", [b"hello", b"{}", b"[]", b'{"data": 1}', b'{"data": {}}'])
async def test_what_is_no_vault_is_no_outage(body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with (
        answering(head + body) as address,
        closing(VaultRoot(address, SecretStr("t"), "k")) as root,
    ):
        with pytest.raises(SetupError, match="not Vault"):
            await root.wrap(bytes(32), context="c")
        with pytest.raises(SetupError, match="not Vault"):
            await root.unwrap(b"vault:v1:x", context="c")


async def test_a_redirect_does_not_take_the_token_elsewhere(bao: BaoServer) -> None:
    head = f"HTTP/1.1 307 Moved\r\nLocation: {bao.address}/v1/x\r\nContent-Length: 0\r\n\r\n"
    async with (
        answering(head.encode()) as address,
        closing(VaultRoot(address, SecretStr(bao.root_token), bao.new_key())) as root,
    ):
        await expect_unavailable(root)


async def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="authority"):
        VaultRoot("https://127.0.0.1:1", SecretStr("t"), "k", ca_file=tmp_path / "absent.pem")


async def test_key_service_refusals_say_what_to_do(kms: KmsServer) -> None:
    async with closing(kms.root("key-that-nobody-made")) as root:
        with pytest.raises(SetupError, match="NotFoundException") as caught:
            await root.wrap(bytes(32), context="c")
        assert "encryption.kms.key_id" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InvalidCiphertextException", 400, IntegrityError),
        ("DisabledException", 409, AccessDenied),
        ("KMSInvalidStateException", 409, AccessDenied),
        ("ExpiredTokenException", 400, AccessDenied),
        ("ThrottlingException", 400, Throttled),
        ("KeyUnavailableException", 500, Unavailable),
        ("SomethingNew", 503, Unavailable),
        ("SomethingNew", 400, SetupError),
    ],
)
async def test_every_refusal_of_a_key_service_is_one_of_ours(
    code: str, status: int, kind: type[EntrepotError]
) -> None:
    """moto knows no disabled keys and no throttling; boto3 gets what AWS would have sent."""
    reason = b"OK" if status < 400 else b"No"
    body = json.dumps({"__type": code}).encode()
    head = b"HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n" % (status, reason, len(body))
    async with answering(head + body) as address:
        access = KmsServer.ACCESS
        async with closing(KmsRoot(address, "k", region="r", **access)) as root:
            with pytest.raises(EntrepotError) as caught:
                await root.unwrap(b"wrapped", context="c")
            assert type(caught.value) is kind


def test_without_boto3_the_command_is_said() -> None:
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from entrepot.codec.keys.kms import KmsRoot\n"
        "try:\n    KmsRoot('http://127.0.0.1:1', 'k', region='r')\n"
        "except Exception as error:\n    print(type(error).__name__, error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split(maxsplit=1) == ["SetupError", "pip install 'entrepot[kms]'\n"]
