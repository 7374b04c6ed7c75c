"""Dates of replies: read a short way, as the library reads them."""

from datetime import UTC, datetime
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from entrepot.store.s3.headers import version_from_headers


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_dates_of_replies_are_read_as_the_library_reads_them(when: datetime) -> None:
    when = when.replace(microsecond=0)
    for text in (format_datetime(when, usegmt=True), format_datetime(when)):
        found = version_from_headers("k", {"Last-Modified": text}, size_bytes=0)
        assert found.mtime_ms == when.timestamp() * 1000
