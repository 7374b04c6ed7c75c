"""Object lock over S3: retention, and legal hold, which is called hold here."""

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from entrepot.errors import NotFound, Unsupported
from entrepot.store.check import check_retention
from entrepot.store.protocol import Lock, LockMode
from entrepot.store.s3.documents import parse, send, text
from entrepot.store.s3.headers import BYPASS, version_query
from entrepot.store.s3.http import Endpoint, check_key

NOT_SET = "NoSuchObjectLockConfiguration"


class S3Locks:
    """The verbs of the second protocol about locks."""

    _endpoint: Endpoint

    async def lock(self, bucket: str, key: str, *, version_id: str | None = None) -> Lock:
        """See ``BucketStore.lock``."""
        # A HEAD would do, were it not silent about locks that the user may not see.
        check_key(key)
        try:
            retention = await self._setting(bucket, key, "retention", version_id)
            hold = await self._setting(bucket, key, "legal-hold", version_id)
        except Unsupported:
            await self._endpoint.text("HEAD", bucket)  # MinIO says so of a missing bucket as well
            raise
        held = hold is not None and text(hold, "Status") == "ON"
        if retention is None:
            return Lock(hold=held)
        until = datetime.fromisoformat(text(retention, "RetainUntilDate")).astimezone(UTC)
        until += timedelta(microseconds=-until.microsecond % 1_000_000)  # never earlier than it is
        return Lock(LockMode(text(retention, "Mode").lower()), until, held)

    async def _setting(
        self, bucket: str, key: str, name: str, version_id: str | None
    ) -> ElementTree.Element | None:
        query = {name: ""} | version_query(version_id)
        try:
            return parse(await self._endpoint.text("GET", bucket, key, query=query))
        except NotFound as error:
            if error.message.startswith(NOT_SET):
                return None
            raise

    async def retain(
        self,
        bucket: str,
        key: str,
        *,
        mode: LockMode | None,
        until: datetime | None,
        version_id: str | None = None,
        bypass: bool = False,
    ) -> None:
        """See ``BucketStore.retain``."""
        check_key(key)
        check_retention(mode, until)
        what = ""
        if mode and until:
            date = until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            what = f"<Mode>{mode.upper()}</Mode><RetainUntilDate>{date}</RetainUntilDate>"
        await send(
            self._endpoint,
            bucket,
            key,
            f"<Retention>{what}</Retention>",
            query={"retention": ""} | version_query(version_id),
            headers=BYPASS if bypass else {},
        )

    async def hold(self, bucket: str, key: str, on: bool, *, version_id: str | None = None) -> None:
        """See ``BucketStore.hold``."""
        check_key(key)
        document = f"<LegalHold><Status>{'ON' if on else 'OFF'}</Status></LegalHold>"
        query = {"legal-hold": ""} | version_query(version_id)
        await send(self._endpoint, bucket, key, document, query=query)

    async def _has_locks(self, bucket: str) -> bool:
        """Whether versions of the bucket can be locked."""
        try:
            await self._endpoint.text("GET", bucket, query={"object-lock": ""})
        except Unsupported:
            return False
        return True
