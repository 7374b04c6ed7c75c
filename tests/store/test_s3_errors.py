"""What an endpoint answers as our own errors: one table, and no answer outside the tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot import errors
from entrepot.errors import EntrepotError, is_retryable
from entrepot.store.s3 import http
from entrepot.store.s3.http import error_for

WHERE = {"endpoint": "http://h", "bucket": "b", "key": "k"}
STATUSES = st.integers(300, 599)


@pytest.mark.parametrize("code", sorted(http._BY_CODE))
def test_every_code_has_its_error(code: str) -> None:
    for status in (400, 404, 503):
        found = error_for(status, code, "It is so.", WHERE)
        assert type(found) is http._BY_CODE[code]
        assert found.fields["status"] == status
        assert found.message == f"{code}: It is so"


@given(STATUSES)
def test_an_unknown_code_goes_by_its_status(status: int) -> None:
    found = error_for(status, "NeverHeardOf", "", WHERE)
    by_status = http._BY_STATUS.get(status)
    if by_status:
        assert type(found) is by_status
    else:
        assert is_retryable(found) == (status >= 500)


@given(STATUSES, st.text(max_size=20), st.text(max_size=40))
def test_any_answer_is_one_of_our_errors(status: int, code: str, message: str) -> None:
    assert isinstance(error_for(status, code, message, WHERE), EntrepotError)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "RequestTimeout"),  # AWS: the socket was idle; says 400 and means "again"
        (408, ""),
        (429, ""),
        (500, "InternalError"),
        (502, ""),
        (503, "SlowDown"),
        (503, "XMinioServerNotInitialized"),
    ],
)
def test_what_passes_is_worth_another_try(status: int, code: str) -> None:
    assert is_retryable(error_for(status, code, "", WHERE))


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "InvalidRequest", "Bucket is missing ObjectLockConfiguration", errors.Unsupported),
        (400, "InvalidRequest", "Bucket is missing Object Lock Configuration", errors.Unsupported),
        (404, "ObjectLockConfigurationNotFoundError", "None here.", errors.Unsupported),
        (
            *(400, "InvalidRequest", "Object is WORM protected and cannot be overwritten"),
            errors.AccessDenied,
        ),
        (
            *(403, "AccessDenied", "Access Denied because object protected by object lock."),
            errors.AccessDenied,
        ),
    ],
)
def test_what_object_lock_refuses_is_told_by_its_text(
    status: int, code: str, message: str, kind: type[EntrepotError]
) -> None:
    found = error_for(status, code, message, WHERE)
    assert type(found) is kind
    assert "access key" not in found.hint


def test_a_missing_bucket_is_told_from_a_missing_key() -> None:
    bucket = {"endpoint": "http://h", "bucket": "b", "key": ""}
    assert type(error_for(404, "", "", bucket)) is errors.BucketNotFound
    assert type(error_for(404, "NoSuchBucket", "", WHERE)) is errors.BucketNotFound
    assert type(error_for(404, "NoSuchKey", "", WHERE)) is errors.NotFound
