"""The documents that configure a bucket, in one form each: pure.

Invariant: two documents that mean the same to an endpoint have the same canonical form, so settings
of two endpoints are compared as texts. XML has no blanks, namespaces or attributes there, and its
elements stand in order of their own text (but for CORS, where the first rule that fits decides);
JSON has sorted names, and lists of texts are sorted, since a policy's are sets.
"""

import json
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from entrepot.errors import InvalidInput


class Setting(StrEnum):
    """What configures a bucket, each a document: a policy in JSON, the others in XML, as S3's."""

    VERSIONING = "versioning"
    LOCK = "lock"  # the default retention of new versions
    POLICY = "policy"
    CORS = "cors"
    LIFECYCLE = "lifecycle"
    TAGS = "tags"
    NOTIFICATION = "notification"  # who is told of writes; names targets of its endpoint alone


ROOTS = {
    Setting.VERSIONING: "VersioningConfiguration",
    Setting.LOCK: "ObjectLockConfiguration",
    Setting.CORS: "CORSConfiguration",
    Setting.LIFECYCLE: "LifecycleConfiguration",
    Setting.TAGS: "Tagging",
    Setting.NOTIFICATION: "NotificationConfiguration",
}
"""The outermost element of each document; a policy is JSON."""

_NOT_SAID = {"ExpiryUpdatedAt"}  # MinIO's own notes, no setting


def canonical(setting: Setting, document: str) -> str:
    """The one form of a document; "" for none, and for one that says nothing.

    Raises:
        InvalidInput: it is no document of this setting.
    """
    if not document.strip():
        return ""
    if setting is Setting.POLICY:
        return _canonical_json(document)
    try:
        root = ElementTree.fromstring(document)  # noqa: S314 - bounded, and expat refuses bombs
    except ElementTree.ParseError as error:
        raise InvalidInput("not XML", setting=setting) from error
    if _tag(root) != ROOTS[setting]:
        raise InvalidInput("not a document of this setting", setting=setting, found=_tag(root))
    inner = _inner(root, in_order=setting is Setting.CORS)
    return f"<{ROOTS[setting]}>{inner}</{ROOTS[setting]}>" if inner else ""


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _inner(element: ElementTree.Element, *, in_order: bool) -> str:
    if len(element) == 0:
        return escape((element.text or "").strip())
    parts = []
    for child in element:
        tag = _tag(child)
        if tag not in _NOT_SAID:
            parts.append(f"<{tag}>{_inner(child, in_order=in_order)}</{tag}>")
    return "".join(parts if in_order else sorted(parts))


def _canonical_json(document: str) -> str:
    try:
        found = json.loads(document)
    except ValueError as error:
        raise InvalidInput("not JSON", setting=Setting.POLICY) from error
    if not isinstance(found, dict):
        raise InvalidInput("not a policy", setting=Setting.POLICY)
    return json.dumps(_sorted(found), sort_keys=True, separators=(",", ":")) if found else ""


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(each) for name, each in value.items()}
    if isinstance(value, list):
        items = [_sorted(each) for each in value]
        return sorted(items) if all(isinstance(each, str) for each in items) else items
    return value
