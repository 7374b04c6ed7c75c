"""Errors as a run's state shows them: what went wrong and, below it, what to type."""

from collections.abc import Iterator
from contextlib import contextmanager

from entrepot.errors import EntrepotError


@contextmanager
def shown() -> Iterator[None]:
    """Make an error's hint part of its text, which is all that Prefect shows of an error."""
    try:
        yield
    except EntrepotError as error:
        if not error.hint:
            raise
        raise type(error)(f"{error}\nhint: {error.hint}") from error
