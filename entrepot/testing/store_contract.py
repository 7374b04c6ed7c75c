"""The contract of a store as tests: one suite for memory, directory and S3.

A test module subclasses ``StoreContract`` and gives it a fixture ``store`` whose endpoint has
every ``Capability``. Each test works in a bucket of its own and leaves it behind. What the
protocol leaves to an endpoint, such as which odd keys it refuses, is accepted here in its two
forms: done right, or ``InvalidInput`` with nothing visible.
"""

from entrepot.testing.bucket_contract import BucketContract, LockContract
from entrepot.testing.history_contract import HistoryContract
from entrepot.testing.object_contract import ObjectContract
from entrepot.testing.setting_contract import SettingContract


class StoreContract(ObjectContract, HistoryContract, BucketContract, LockContract, SettingContract):
    """All of it."""
