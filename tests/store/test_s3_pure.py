"""The pure parts of the S3 client against independent ones: botocore, ElementTree, Go's rules."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.charset import QP, Charset
from email.header import Header, decode_header, make_header
from io import BytesIO
from urllib.parse import quote, quote_plus, unquote_plus
from uuid import UUID
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from botocore.httpchecksum import AwsChunkedWrapper, CrtCrc32cChecksum
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from entrepot.crc import crc32c
from entrepot.errors import IntegrityError, InvalidInput
from entrepot.store.protocol import Attributes, Origin, Version
from entrepot.store.s3 import listing, trailer
from entrepot.store.s3.headers import (
    attributes_from_headers,
    attributes_to_headers,
    copy_origin_to_headers,
    origin_to_headers,
    rfc3339,
    version_from_headers,
)
from entrepot.store.s3.sign import Credentials, encode_path, encode_query, sign

# --- Signatures -------------------------------------------------------------------------------

NO_CONTROLS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
texts = st.text(NO_CONTROLS, max_size=20)
keys = st.text(NO_CONTROLS, min_size=1, max_size=30)
names = st.from_regex(r"[a-z][a-z0-9-]{0,15}", fullmatch=True)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))


def boto_authorization(
    credentials: Credentials,
    method: str,
    *,
    url: str,
    headers: Mapping[str, str],
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """What botocore signs for the same request with an unsigned body."""
    request = AWSRequest(method=method, url=url, headers=dict(headers))
    request.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    signer = S3SigV4Auth(
        BotoCredentials(credentials.access_key, credentials.secret_key.get_secret_value()),
        "s3",
        credentials.region,
    )
    with monkeypatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None))
        signer.add_auth(request)
    return str(request.headers["Authorization"])


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    bucket=st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True),
    key=st.just("") | keys,
    query=st.dictionaries(texts.filter(bool), texts, max_size=4),
    meta=st.dictionaries(names.map("x-amz-meta-".__add__), values, max_size=3),
    secret=st.text(st.characters(codec="ascii", min_codepoint=33), min_size=8, max_size=40),
    region=st.from_regex(r"[a-z]{2}-[a-z]{4,9}-[1-9]", fullmatch=True),
    now=moments,
)
@example(
    method="GET",
    bucket="bkt",
    key="a b/+&=~é%2F*'()!",
    query={"prefix": "a b+c/é~", "versions": ""},
    meta={},
    secret="s" * 8,
    region="r",
    now=datetime(2024, 1, 2, tzinfo=UTC),
)
def test_signature_is_botocores(
    *,
    method: str,
    bucket: str,
    key: str,
    query: dict[str, str],
    meta: dict[str, str],
    secret: str,
    region: str,
    now: datetime,
) -> None:
    credentials = Credentials("AKIDEXAMPLE", SecretStr(secret), region)
    headers = {"content-type": "text/plain", **meta}
    path, text = encode_path(bucket, key), encode_query(query)
    with pytest.MonkeyPatch.context() as monkeypatch:
        theirs = boto_authorization(
            credentials,
            method,
            url=f"https://example.com:9000{path}{'?' + text if text else ''}",
            headers=headers,
            now=now,
            monkeypatch=monkeypatch,
        )
    ours = sign(
        credentials,
        method,
        host="example.com:9000",
        path=path,
        query=text,
        headers=headers,
        now=now,
    )
    assert ours["authorization"] == theirs


def test_yesterdays_signing_key_is_not_used_today() -> None:
    credentials = Credentials("A", SecretStr("secret"), "r")
    first = datetime(2024, 1, 1, 23, 59, 59, tzinfo=UTC)
    signed = [
        sign(credentials, "GET", host="h", path="/", query="", headers={}, now=now)
        for now in (first, first + timedelta(seconds=1))
    ]
    assert "20240101/r" in signed[0]["authorization"]
    assert "20240102/r" in signed[1]["authorization"]


@given(st.dictionaries(texts.filter(bool), texts, max_size=5))
def test_a_query_is_sorted_as_it_is_encoded(query: dict[str, str]) -> None:
    pairs = encode_query(query).split("&") if query else []
    assert pairs == sorted(pairs, key=lambda pair: pair.partition("=")[0])
    assert {unquote(n): unquote(v) for n, _, v in (p.partition("=") for p in pairs)} == query


def unquote(text: str) -> str:
    assert "+" not in text
    return unquote_plus(text)


# --- Listings ---------------------------------------------------------------------------------

AWS_NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass(frozen=True)
class Entry:
    """One entry of a listing as an endpoint knows it."""

    key: str
    version_id: str
    mtime_ms: int
    size_bytes: int
    etag: str
    is_current: bool
    is_delete_marker: bool
    owner: str
    order: int

    def xml(self, *, contents: bool = False) -> str:
        """As endpoints send it: their elements come in different orders."""
        when = datetime.fromtimestamp(self.mtime_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        kind = "Contents" if contents else "DeleteMarker" if self.is_delete_marker else "Version"
        owner = escape(self.owner)
        told = {
            "Key": escape(quote_plus(self.key, safe="/*-._")),
            "LastModified": f"{when}.{self.mtime_ms % 1000:03}Z",
        }
        if contents or not self.is_delete_marker:
            quote = "&#34;" if self.order % 2 else "&quot;"
            told |= {"ETag": f"{quote}{self.etag}{quote}", "Size": str(self.size_bytes)}
        told["Owner"] = f"<ID>{owner}</ID><DisplayName>{owner}</DisplayName>"
        if contents or not self.is_delete_marker:
            told["StorageClass"] = "STANDARD"
        if not contents:
            told |= {"IsLatest": str(self.is_current).lower()}
            told |= {"VersionId": escape(self.version_id)}
        fields = [f"<{name}>{text}</{name}>" for name, text in told.items()]
        turn = self.order // 2 % len(fields)  # 0: as MinIO does
        return f"<{kind}>{''.join(fields[turn:] + fields[:turn])}</{kind}>"


entries = st.builds(
    Entry,
    key=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=8)
    | st.sampled_from(
        ["a&amp;b", "a+b", "a b", "100%", "%2B", "<Version>", "</Version>", "ü/日本"]
    ),
    version_id=st.uuids().map(str) | st.sampled_from(["null", "3/L4kq+mSpXd3&dIb", "%2B"]),
    mtime_ms=st.integers(0, 4_000_000_000_000),
    size_bytes=st.integers(0, 2**45),
    etag=st.from_regex(r"[0-9a-f]{32}(-[1-9][0-9]?)?", fullmatch=True),
    is_current=st.booleans(),
    is_delete_marker=st.booleans(),
    owner=st.text(st.characters(codec="ascii", min_codepoint=32), max_size=5),
    order=st.integers(0, 19),
)


def listing_body(parts: list[str], *, root: str, more: bool = False, extra: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} {AWS_NS}><Name>bucket</Name>'
        f"<Prefix></Prefix><IsTruncated>{str(more).lower()}</IsTruncated>{extra}"
        f"<EncodingType>url</EncodingType>{''.join(parts)}</{root}>"
    ).encode()


def by_element_tree(body: bytes) -> list[Version]:
    """The same listing by a general reader, in the order of the protocol."""
    found = []
    for element in ElementTree.fromstring(body):
        kind = element.tag.rpartition("}")[2]
        if kind == "CommonPrefixes":
            prefix = unquote_plus(element.findtext("{*}Prefix") or "")
            found.append(Version(key=prefix, version_id="", mtime_ms=0))
        if kind not in ("Version", "DeleteMarker", "Contents"):
            continue
        text = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
        when = datetime.fromisoformat(text["LastModified"])
        found.append(
            Version(
                key=unquote_plus(text["Key"]),
                version_id=text.get("VersionId", "null"),
                mtime_ms=round(when.timestamp() * 1000),
                size_bytes=int(text.get("Size", "0")),
                etag=text.get("ETag", "").strip('"'),
                is_current=text.get("IsLatest", "true") == "true",
                is_delete_marker=kind == "DeleteMarker",
            )
        )
    return found


def in_order(found: list[Version]) -> list[Version]:
    return sorted(found, key=lambda v: (v.key.encode(), not v.is_current, -v.mtime_ms))


@given(st.lists(entries, max_size=8))
def test_versions_read_as_by_a_general_reader(listed: list[Entry]) -> None:
    body = listing_body([entry.xml() for entry in listed], root="ListVersionsResult")
    found = listing.versions_page(body).versions
    if any(entry.is_delete_marker for entry in listed):
        assert found == in_order(by_element_tree(body))
    else:
        assert found == by_element_tree(body)


@given(st.lists(entries, max_size=8), st.lists(keys, max_size=3))
def test_current_objects_and_prefixes_read_as_by_a_general_reader(
    listed: list[Entry], prefixes: list[str]
) -> None:
    common = [
        f"<CommonPrefixes><Prefix>{escape(quote_plus(p + '/', safe='/'))}</Prefix></CommonPrefixes>"
        for p in prefixes
    ]
    parts = [entry.xml(contents=True) for entry in listed] + common
    body = listing_body(parts, root="ListBucketResult")
    expected = by_element_tree(body)
    found = listing.current_page(body).versions
    assert found == (in_order(expected) if common else expected)


@given(st.lists(entries, min_size=1, max_size=6), st.data())
def test_a_listing_cut_anywhere_is_an_error(listed: list[Entry], data: st.DataObject) -> None:
    """Between two entries as well, where what is left looks whole."""
    body = listing_body([entry.xml() for entry in listed], root="ListVersionsResult")
    closing = [i + 2 for i in range(len(body)) if body[i : i + 2] in (b"n>", b"r>")]
    at = data.draw(st.integers(0, len(body) - 2) | st.sampled_from(closing[:-1]))
    cut = body[:at]
    assume(not cut.rstrip().endswith(b"</ListVersionsResult>"))
    with pytest.raises(IntegrityError):
        listing.is_truncated(cut)
        listing.versions_page(cut)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b"<!DOCTYPE html><title>Login</title>",
        b'{"error": "no"}',
        b"<Error><Code>SlowDown</Code></Error>",
        b"<ListVersionsResult><IsTruncated>perhaps</IsTruncated></ListVersionsResult>",
    ],
)
def test_what_is_no_listing_is_an_error(body: bytes) -> None:
    with pytest.raises(IntegrityError):
        listing.is_truncated(body)


def test_the_usual_entry_is_read_the_short_way_and_alike() -> None:
    entry = Entry("a/b-1", str(UUID(int=7)), 1_750_000_000_123, 8, 32 * "a", True, False, "me", 1)
    [token] = listing.versions_page(listing_body([entry.xml()], root="ListVersionsResult")).tokens
    assert listing._USUAL.fullmatch(token)
    for more in (b"", b"<Internal><K>1</K><M>0</M></Internal>"):
        usual = token.replace(b"<IsLatest>", more + b"<IsLatest>")
        other = usual.replace(b"<Owner>", b"<Other/><Owner>")
        assert listing._USUAL.fullmatch(usual) and not listing._USUAL.fullmatch(other)
        assert listing.decode(usual) == listing.decode(other)


def test_an_entry_without_its_key_is_an_error() -> None:
    entry = "<Version><LastModified>2024-01-01T00:00:00.000Z</LastModified></Version>"
    body = listing_body([entry], root="ListVersionsResult")
    with pytest.raises(IntegrityError):
        listing.versions_page(body).versions  # noqa: B018


@given(entries.filter(lambda entry: not entry.is_delete_marker), entries)
def test_a_version_has_one_token_whatever_else_its_page_holds(one: Entry, other: Entry) -> None:
    """Two sites in step may list a version beside a delete marker and without one."""
    bodies = [
        listing_body(parts, root="ListVersionsResult")
        for parts in ([one.xml()], [one.xml(), other.xml()])
    ]
    alone, beside = (listing.versions_page(body).tokens for body in bodies)
    assert alone[0] in beside


def test_markers_of_the_next_page_come_back_as_they_were() -> None:
    """Keys are encoded, version ids are not: those of AWS hold ``+`` and ``/``."""
    extra = (
        "<NextKeyMarker>a+b%2Bc/%C3%BC</NextKeyMarker>"
        "<NextVersionIdMarker>3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY&amp;x%2B</NextVersionIdMarker>"
    )
    body = listing_body([], root="ListVersionsResult", more=True, extra=extra)
    assert listing.next_versions(body, listing.versions_page(body)) == {
        "key-marker": "a b+c/ü",
        "version-id-marker": "3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY&x%2B",
    }
    extra = "<NextContinuationToken>a+b/c%2B==</NextContinuationToken>"
    body = listing_body([], root="ListBucketResult", more=True, extra=extra)
    assert listing.next_current(body, listing.current_page(body)) == {
        "continuation-token": "a+b/c%2B=="
    }


@given(entries)
def test_a_listing_of_versions_goes_on_after_its_last_entry(last: Entry) -> None:
    """MinIO's own marker would go on with a listing that the server keeps, and wait for it."""
    extra = "<NextKeyMarker>k[minio_cache:v2,return:]</NextKeyMarker>"
    body = listing_body([last.xml()], root="ListVersionsResult", more=True, extra=extra)
    assert listing.next_versions(body, listing.versions_page(body)) == {
        "key-marker": last.key,
        "version-id-marker": last.version_id,
    }


def test_the_end_is_asked_for_again_where_the_start_was_ours() -> None:
    """After the last entry, after what was asked for where there is none, and never twice."""
    when = "2024-01-01T00:00:00.000Z"
    entry = f"<Version><Key>a/x</Key><VersionId>v1</VersionId><LastModified>{when}</LastModified>"
    one = listing.versions_page(listing_body([f"{entry}</Version>"], root="ListVersionsResult"))
    none = listing.versions_page(listing_body([], root="ListVersionsResult"))
    keep = "[minio_cache:v2,return:]"
    assert listing.to_the_end({"versions": ""}, one) is None
    asked = {"versions": "", "key-marker": "a", "version-id-marker": "v0"}
    assert listing.to_the_end(asked, one) == {"key-marker": f"a/x{keep}"}
    assert listing.to_the_end(asked, none) == {**asked, "key-marker": f"a{keep}"}
    asked = {"list-type": "2", "start-after": "a"}
    assert listing.to_the_end(asked, none) == {**asked, "start-after": f"a{keep}"}
    assert listing.to_the_end({**asked, "continuation-token": "t"}, none) is None


def test_more_pages_without_saying_where_is_an_error() -> None:
    """Else the first page would be read again and again."""
    for following in (listing.next_versions, listing.next_current):
        body = listing_body([], root="ListVersionsResult", more=True)
        with pytest.raises(IntegrityError):
            following(body, listing.versions_page(body))


# --- Headers ----------------------------------------------------------------------------------


def go_encoded(value: str) -> str:
    """A value as MinIO answers it: as it is in ASCII, else by RFC 2047 in lines of 75 signs."""
    if value.isascii():
        return value
    charset = Charset("utf-8")
    charset.header_encoding = QP
    return Header(value, charset, maxlinelen=75).encode(linesep="").replace("\n", "")


metadata_values = st.text(NO_CONTROLS, max_size=120).map(str.strip) | st.just("日本" * 40)
looks_encoded = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60).map(
    "=?{}".format
)


@given(metadata_values)
def test_metadata_survives_an_endpoint(value: str) -> None:
    sent = attributes_to_headers(Attributes(metadata={"name": value}))
    answered = {"X-Amz-Meta-Name": go_encoded(sent["x-amz-meta-name"])}
    assert attributes_from_headers(answered).metadata == {"name": value}


@given(looks_encoded)
@example("=?x?q?y?=")
@example("=?utf-8?b?!!!?=")
@example("=?utf-8?q?=ff?=")
@example("=?utf-8?q?abc?=")
@example("=?utf-8?q?=0A=C3=BC?=")
@example("=?utf-8?q?=C3=BC_?=")
def test_what_looks_encoded_stops_nobody_and_is_answered_alike(value: str) -> None:
    """A tenant may write anything; a copy of it must read the same at the other site."""
    (text,) = attributes_from_headers({"x-amz-meta-name": value}).metadata.values()
    attributes_to_headers(Attributes(metadata={"name": text.strip()}))
    assert text == value or decoded(go_encoded(text)) == decoded(value)


def decoded(value: str) -> str:
    return str(make_header(decode_header(value)))


@given(st.integers(0, 4_000_000_000_000))
def test_times_are_rfc_3339_to_the_millisecond(time_ms: int) -> None:
    text = rfc3339(time_ms)
    assert round(datetime.fromisoformat(text).timestamp() * 1000) == time_ms
    assert len(text) == len("2024-01-01T00:00:00.000Z")


def test_control_characters_are_refused() -> None:
    with pytest.raises(InvalidInput):
        attributes_to_headers(Attributes(metadata={"name": "a\r\nx-amz-acl: public-read"}))


def test_standard_headers_and_tags_travel() -> None:
    attributes = Attributes(
        content_type="text/html; charset=utf-8",
        headers={"cache-control": "no-store", "content-encoding": "gzip"},
        tags={"a b": "c&d=é"},
    )
    sent = attributes_to_headers(attributes)
    assert sent["x-amz-tagging"] == "a+b=c%26d%3D%C3%A9"
    back = attributes_from_headers({**sent, "x-amz-tagging-count": "1"})
    assert (back.content_type, back.headers) == (attributes.content_type, attributes.headers)
    assert (back.tags, back.tag_count) == ({}, 1)


def test_an_origin_names_its_time_and_says_that_it_is_a_replica() -> None:
    assert origin_to_headers(None) == {}
    found = origin_to_headers(Origin(version_id=quote("x"), mtime_ms=1_700_000_000_007))
    assert found["x-minio-source-mtime"] == "2023-11-14T22:13:20.007Z"
    assert found["x-minio-source-replication-request"] == "true"


def test_a_copy_with_an_origin_is_no_replica() -> None:
    """Else its tags would stay behind."""
    assert copy_origin_to_headers(None) == {}
    found = copy_origin_to_headers(Origin(version_id="x", mtime_ms=1_700_000_000_007))
    assert found == {"x-minio-source-mtime": "2023-11-14T22:13:20.007Z"}


def test_a_reply_without_version_is_the_null_one() -> None:
    found = version_from_headers("k", {"ETag": '"e"'}, size_bytes=3)
    assert (found.version_id, found.etag, found.size_bytes, found.mtime_ms) == ("null", "e", 3, 0)


# --- Bodies with a trailer --------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 15, 16, 99_999, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 5])
@pytest.mark.parametrize("piece", [7_777, 300_000, 5_000_000])
async def test_frames_are_botocores(size: int, piece: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, size, piece):
            yield body[at : at + piece]

    found = b"".join([each async for each in trailer.framed(pieces(), size, lambda: crc32c(body))])
    wrapper = AwsChunkedWrapper(
        BytesIO(body),
        checksum_cls=CrtCrc32cChecksum,
        checksum_name=trailer.NAME,
        chunk_size=trailer.CHUNK_BYTES,
    )
    assert found == b"".join(iter(lambda: wrapper.read(1 << 16), b""))
    assert len(found) == trailer.framed_size(size)


def test_a_crc_is_that_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"56789", crc32c(b"1234")) == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
