"""The contract of a bucket's settings: what was set comes back in one form, and can be removed."""

import json

import pytest

from entrepot.errors import BucketNotFound, EntrepotError, InvalidInput, Unsupported
from entrepot.store.protocol import Store
from entrepot.store.settings import Setting, canonical
from entrepot.testing.contract_tools import ContractPart, new_bucket

TAGS = """
<Tagging xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><TagSet>
  <Tag><Key>team</Key><Value>a/b</Value></Tag><Tag><Key>cost</Key><Value>7</Value></Tag>
</TagSet></Tagging>"""
LIFECYCLE = """
<LifecycleConfiguration><Rule><ID>old</ID><Status>Enabled</Status><Filter><Prefix>tmp/</Prefix>
</Filter><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>"""
CORS = """
<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>
</CORSRule></CORSConfiguration>"""
LOCK = """
<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>
<Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>"""


def policy(bucket: str) -> str:
    """Anybody may read the bucket's objects."""
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": ["*"]},
                    "Action": ["s3:GetObject", "s3:GetBucketLocation"],
                    "Resource": [f"arn:aws:s3:::{bucket}/*", f"arn:aws:s3:::{bucket}"],
                }
            ],
        }
    )


class SettingContract(ContractPart):
    """Documents that configure a bucket."""

    @pytest.mark.parametrize("name", [Setting.TAGS, Setting.CORS, Setting.LIFECYCLE])
    async def test_a_setting_comes_back_or_is_not_supported(
        self, store: Store, bucket: str, name: Setting
    ) -> None:
        document = {Setting.TAGS: TAGS, Setting.CORS: CORS, Setting.LIFECYCLE: LIFECYCLE}[name]
        try:
            assert await store.setting(bucket, name) == ""
            await store.configure(bucket, name, document)
        except Unsupported:
            return
        assert await store.setting(bucket, name) == canonical(name, document)
        await store.configure(bucket, name, document)
        await store.configure(bucket, name, "")
        await store.configure(bucket, name, "")
        assert await store.setting(bucket, name) == ""

    async def test_a_policy_comes_back(self, store: Store, bucket: str) -> None:
        assert await store.setting(bucket, Setting.POLICY) == ""
        await store.configure(bucket, Setting.POLICY, policy(bucket))
        kept = canonical(Setting.POLICY, policy(bucket))
        assert await store.setting(bucket, Setting.POLICY) == kept
        await store.configure(bucket, Setting.POLICY, "")
        assert await store.setting(bucket, Setting.POLICY) == ""

    async def test_versioning_is_switched_on(self, store: Store) -> None:
        bucket = await new_bucket(store, versioned=False)
        on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        assert await store.setting(bucket, Setting.VERSIONING) == ""
        await store.configure(bucket, Setting.VERSIONING, on)
        assert await store.versioned(bucket)
        assert await store.setting(bucket, Setting.VERSIONING) == on
        with pytest.raises(InvalidInput):
            await store.configure(bucket, Setting.VERSIONING, "")

    async def test_a_default_retention_needs_object_lock(self, store: Store, bucket: str) -> None:
        with pytest.raises(Unsupported):
            await store.setting(bucket, Setting.LOCK)
        locked = await new_bucket(store, locked=True)
        try:
            await store.configure(locked, Setting.LOCK, LOCK)
        except Unsupported:
            return
        assert await store.setting(locked, Setting.LOCK) == canonical(Setting.LOCK, LOCK)

    async def test_settings_go_with_their_bucket(self, store: Store, bucket: str) -> None:
        await store.configure(bucket, Setting.TAGS, TAGS)
        await store.drop(bucket)
        with pytest.raises(BucketNotFound):
            await store.setting(bucket, Setting.TAGS)
        await store.create(bucket)
        assert await store.setting(bucket, Setting.TAGS) == ""

    @pytest.mark.parametrize("name", Setting)
    async def test_what_is_no_document_is_refused(
        self, store: Store, bucket: str, name: Setting
    ) -> None:
        for document in ("<Other/>", "[1]", "<", "x"):
            with pytest.raises(EntrepotError):
                await store.configure(bucket, name, document)
