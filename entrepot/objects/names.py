"""Keys as clients name them, and as the store keeps them.

They are the same but for one case: MinIO keeps a key that ends with a slash as a folder of one
unversioned object. Such a key is stored with ``FOLDER`` behind it, and shown without.
"""

from entrepot.errors import InvalidInput
from entrepot.store.check import check_key

FOLDER = ".entrepot-folder"


def check_name(key: str) -> None:
    """Refuse what no S3 key is, and what stands for another."""
    check_key(key)
    if key.startswith("/"):
        raise InvalidInput("endpoints drop the slash that a key starts with", key=key)
    if key.endswith("/" + FOLDER):
        raise InvalidInput("keys that end like this are reserved", key=key)
    check_key(stored_key(key))


def stored_key(key: str) -> str:
    """The key in the bucket."""
    return key + FOLDER if key.endswith("/") else key


def shown_key(key: str) -> str:
    """The inverse."""
    return key.removesuffix(FOLDER) if key.endswith("/" + FOLDER) else key
