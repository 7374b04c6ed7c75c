"""The server's limits, tried by clients that are slow, silent or rude, over raw sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import SetupError
from entrepot.gateway.server import HEAD_MAX_BYTES, BoundedProtocol, listen
from tests.gateway.conftest import BODY_TIMEOUT_S, Sender
from tests.gateway.servers import Address

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def head(sender: Sender, *more: str, body: bytes = b"{}") -> bytes:
    lines = [f"POST /webhooks/{sender.name} HTTP/1.1", "host: gateway"]
    lines += [f"{name}: {value}" for name, value in sender.headers(body).items()]
    return "\r\n".join([*lines, *more, "", ""]).encode()


async def test_a_body_that_trickles_is_given_up(sender: Sender) -> None:
    begun = SYSTEM_CLOCK.monotonic()
    async with connected(sender.address) as (reader, writer):
        writer.write(head(sender, "content-length: 1000"))

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        answer = await asyncio.wait_for(reader.read(), 30)  # to the end: it is closed
        trickling.cancel()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert SYSTEM_CLOCK.monotonic() - begun < BODY_TIMEOUT_S + 10
    assert sender.runs() == []


@pytest.mark.parametrize("sent", [b"", b"POST /webhooks/x HTTP/1.1\r\nhost: a\r\nx: "])
async def test_a_head_that_does_not_end_is_given_up(
    address: Address, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_timeout_s", 0.5)
    async with connected(address) as (reader, writer):
        writer.write(sent)
        for _ in range(3 if sent else 0):
            await asyncio.sleep(0.1)
            writer.write(b"y")
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_second_head_on_one_connection_is_given_up_too(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_timeout_s", 0.5)
    async with connected(address) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET /healthz HT")
        assert await asyncio.wait_for(reader.read(), 10) == b""


@pytest.mark.parametrize("path", ["/webhooks/none", "/api/v1/replication/force-sync"])
async def test_a_body_that_never_ends_is_given_up_once_it_is_answered(
    address: Address, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Each piece would start the server's own clock anew."""
    monkeypatch.setattr(BoundedProtocol, "rest_timeout_s", 0.5)
    async with connected(address) as (reader, writer):
        lines = f"POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(lines.encode())
        assert (await reader.readline()).split()[1] in (b"401", b"404")
        ended = asyncio.ensure_future(reader.read())
        began = SYSTEM_CLOCK.monotonic()
        while not ended.done():
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)
            assert SYSTEM_CLOCK.monotonic() - began < 10
        with contextlib.suppress(ConnectionError):
            await ended


async def test_a_long_head_is_refused(address: Address) -> None:
    async with connected(address) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (HEAD_MAX_BYTES + 1024))
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "lines",
    [
        ("content-length: 2", "content-length: 3"),
        ("content-length: 2, 3",),
        ("content-length: +2",),
        ("content-length: -1",),
        ("content-length: 2", "transfer-encoding: identity"),
        ("transfer-encoding: xchunked",),
    ],
    ids=str,
)
async def test_an_ambiguous_length_is_refused(sender: Sender, lines: tuple[str, ...]) -> None:
    async with connected(sender.address) as (reader, writer):
        writer.write(head(sender, *lines) + b"{}")
        status = int((await reader.readline()).split()[1])
    assert status in {400, 501}
    assert sender.runs() == []


async def test_a_sender_that_leaves_starts_nothing(sender: Sender) -> None:
    async with connected(sender.address) as (_, writer):
        writer.write(head(sender, "content-length: 2") + b"{")
        await writer.drain()
    await asyncio.sleep(0.3)
    assert sender.runs() == []


async def test_expect_continue_is_answered_only_where_the_body_is_wanted(sender: Sender) -> None:
    async with connected(sender.address) as (reader, writer):
        writer.write(head(sender, "content-length: 2", "expect: 100-continue"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        await reader.readline()
        writer.write(b"{}")
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
    async with connected(sender.address) as (reader, writer):
        writer.write(head(sender, "content-length: 9999999", "expect: 100-continue"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_a_websocket_is_not_spoken(address: Address) -> None:
    async with connected(address) as (reader, writer):
        writer.write(
            b"GET /webhooks/x HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n"
            b"connection: upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert int((await reader.readline()).split()[1]) in {400, 405}


def test_a_port_that_is_taken_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match="in use") as caught:
            listen("127.0.0.1", port)
    assert "--port" in caught.value.hint
