"""Buckets and tags over S3."""

from collections.abc import Mapping
from datetime import datetime
from xml.sax.saxutils import escape

from entrepot.errors import Unsupported
from entrepot.store.check import check_tags
from entrepot.store.lifecycle import Expiry
from entrepot.store.protocol import BucketInfo
from entrepot.store.s3.documents import parse, send, text
from entrepot.store.s3.headers import version_query
from entrepot.store.s3.http import Endpoint, check_key
from entrepot.store.s3.lifecycle import expiries


class S3Buckets:
    """The verbs of the second protocol about buckets and tags."""

    _endpoint: Endpoint

    async def create(self, bucket: str, *, versioned: bool = True, locked: bool = False) -> None:
        """See ``BucketStore.create``."""
        headers = {"x-amz-bucket-object-lock-enabled": "true"} if locked else {}
        await self._endpoint.text("PUT", bucket, headers=headers)
        if versioned and not locked:
            body = (
                b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                b"<Status>Enabled</Status></VersioningConfiguration>"
            )
            await self._endpoint.text("PUT", bucket, query={"versioning": ""}, body=body)

    async def drop(self, bucket: str) -> None:
        """See ``BucketStore.drop``."""
        await self._endpoint.text("DELETE", bucket)

    async def buckets(self) -> tuple[BucketInfo, ...]:
        """See ``BucketStore.buckets``."""
        root = parse(await self._endpoint.text("GET", ""))
        found = (
            BucketInfo(
                name=text(entry, "Name"),
                created=datetime.fromisoformat(text(entry, "CreationDate")),
            )
            for entry in root.iterfind("{*}Buckets/{*}Bucket")
        )
        return tuple(sorted(found, key=lambda info: info.name))

    async def versioned(self, bucket: str) -> bool:
        """See ``BucketStore.versioned``."""
        root = parse(await self._endpoint.text("GET", bucket, query={"versioning": ""}))
        return text(root, "Status") == "Enabled"

    async def lifecycle(self, bucket: str) -> tuple[Expiry, ...]:
        """See ``BucketStore.lifecycle``."""
        try:
            root = parse(await self._endpoint.text("GET", bucket, query={"lifecycle": ""}))
        except Unsupported:
            return ()
        return expiries(root)

    async def tags(
        self, bucket: str, key: str, *, version_id: str | None = None
    ) -> Mapping[str, str]:
        """See ``BucketStore.tags``."""
        check_key(key)
        query = {"tagging": ""} | version_query(version_id)
        root = parse(await self._endpoint.text("GET", bucket, key, query=query))
        return {text(tag, "Key"): text(tag, "Value") for tag in root.iterfind(".//{*}Tag")}

    async def tag(
        self, bucket: str, key: str, tags: Mapping[str, str], *, version_id: str | None = None
    ) -> None:
        """See ``BucketStore.tag``."""
        check_key(key)
        check_tags(tags)
        query = {"tagging": ""} | version_query(version_id)
        if not tags:
            await self._endpoint.text("DELETE", bucket, key, query=query)
            return
        listed = "".join(
            f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>"
            for name, value in tags.items()
        )
        document = f"<Tagging><TagSet>{listed}</TagSet></Tagging>"
        await send(self._endpoint, bucket, key, document, query=query)
