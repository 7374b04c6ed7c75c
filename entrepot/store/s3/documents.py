"""The small XML documents of S3 beside its listings: built as text, read by ElementTree.

What we read is bounded by ``http``, and expat refuses entity bombs.
"""

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from xml.etree import ElementTree

from entrepot.errors import IntegrityError
from entrepot.store.s3.http import Endpoint, error_for


def parse(body: bytes) -> ElementTree.Element:
    """The root of a document."""
    try:
        return ElementTree.fromstring(body)  # noqa: S314 - bounded, and expat refuses bombs
    except ElementTree.ParseError as error:
        raise IntegrityError("the endpoint's XML is cut or malformed") from error


def text(element: ElementTree.Element, name: str) -> str:
    """What a child says; "" where there is none of that name."""
    return element.findtext(f"{{*}}{name}") or ""


def result(endpoint: Endpoint, body: bytes, bucket: str, key: str) -> ElementTree.Element:
    """The root of an answer that may say 200 and only then, in its body, that it failed."""
    root = parse(body)
    if root.tag.rpartition("}")[2] == "Error":
        where = {"endpoint": endpoint.url, "bucket": bucket, "key": key}
        raise error_for(500, text(root, "Code"), text(root, "Message"), where)
    return root


async def send(
    endpoint: Endpoint,
    bucket: str,
    key: str,
    document: str,
    *,
    query: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
) -> None:
    """PUT a document with its MD5, which these requests must have."""
    body = document.encode()
    md5 = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    headers = {"content-md5": md5, **(headers or {})}
    await endpoint.text("PUT", bucket, key, query=query, headers=headers, body=body)


async def pages(
    endpoint: Endpoint,
    bucket: str,
    key: str,
    first: Mapping[str, str],
    following: Callable[[ElementTree.Element], Mapping[str, str]],
) -> AsyncIterator[ElementTree.Element]:
    """The pages of a listing; ``following`` says what asks for the one after a page."""
    query = first
    while True:
        page = parse(await endpoint.text("GET", bucket, key, query=query))
        yield page
        if text(page, "IsTruncated") != "true":
            return
        before, query = query, {**first, **following(page)}
        if query == before:
            raise IntegrityError("the endpoint's listing does not move on", bucket=bucket)
