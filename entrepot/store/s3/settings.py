"""Settings of buckets over S3: one subresource each."""

from entrepot.errors import InvalidInput, NotFound, Unsupported
from entrepot.store.s3.documents import send
from entrepot.store.s3.http import Endpoint
from entrepot.store.settings import ROOTS, Setting, canonical

_SUBRESOURCES = {
    Setting.VERSIONING: "versioning",
    Setting.LOCK: "object-lock",
    Setting.POLICY: "policy",
    Setting.CORS: "cors",
    Setting.LIFECYCLE: "lifecycle",
    Setting.TAGS: "tagging",
    Setting.NOTIFICATION: "notification",
}


class S3Settings:
    """The verbs of the second protocol about settings."""

    _endpoint: Endpoint

    async def setting(self, bucket: str, name: Setting) -> str:
        """See ``BucketStore.setting``."""
        query = {_SUBRESOURCES[name]: ""}
        try:
            document = await self._endpoint.text("GET", bucket, query=query)
        except (NotFound, Unsupported) as error:
            code = error.message.partition(":")[0]
            await self._endpoint.text("HEAD", bucket)  # MinIO says so of a missing bucket as well
            if code.startswith("NoSuch") and code != "NoSuchBucket":
                return ""  # NoSuchBucketPolicy, NoSuchTagSet, NoSuchLifecycleConfiguration, ...
            raise
        return canonical(name, document.decode())

    async def configure(self, bucket: str, name: Setting, document: str) -> None:
        """See ``BucketStore.configure``."""
        document, query = canonical(name, document), {_SUBRESOURCES[name]: ""}
        if not document and name is Setting.NOTIFICATION:  # S3 knows no DELETE of it
            document = f"<{ROOTS[name]}/>"
        if document:
            await send(self._endpoint, bucket, "", document, query=query)
        elif name in (Setting.VERSIONING, Setting.LOCK):
            raise InvalidInput("this setting is changed and never removed", setting=name)
        else:
            await self._endpoint.text("DELETE", bucket, query=query)
