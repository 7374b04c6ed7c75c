"""The one place where errors of SQLAlchemy and psycopg become ours.

Invariant: inside ``translated()`` nothing of either library escapes. What a later try can cure
(connection, lock, timeout, full disk, a server that starts or stops) is ``Unavailable``; the rest
is permanent. Parameters of a statement never appear in a message: they may be secrets.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg
from sqlalchemy import exc

from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    EntrepotError,
    InvalidInput,
    NotFound,
    PermanentError,
    SetupError,
    Unavailable,
)

_DEPLOY = "entrepot deploy"

# First match wins, so subclasses stand before their parents.
_BY_CLASS: tuple[tuple[tuple[type[psycopg.Error], ...], type[EntrepotError], str, str], ...] = (
    ((pg.UniqueViolation, pg.ExclusionViolation), AlreadyExists, "the name is taken", ""),
    ((pg.ForeignKeyViolation,), NotFound, "a row that this one belongs to is not there", ""),
    ((psycopg.IntegrityError,), InvalidInput, "a value is outside the catalog's bounds", ""),
    ((psycopg.DataError,), InvalidInput, "the catalog cannot hold this value", ""),
    ((pg.InsufficientPrivilege,), AccessDenied, "the catalog's role may not do this", ""),
    ((pg.UndefinedTable, pg.UndefinedColumn), SetupError, "the catalog lacks a table", _DEPLOY),
    ((pg.ReadOnlySqlTransaction,), Unavailable, "the catalog is read-only just now", ""),
    (
        (psycopg.OperationalError, psycopg.InterfaceError),
        Unavailable,
        "the catalog cannot be reached or did not answer in time",
        "entrepot status",
    ),
)

# A refused connection carries no SQLSTATE, only the server's words. Where they are in another
# language the error is `Unavailable`, which a bounded retry then turns into the same end.
_BY_WORDS: tuple[tuple[str, type[EntrepotError], str, str], ...] = (
    ("authentication failed", AccessDenied, "the catalog refused the password", ""),
    ('" does not exist', SetupError, "the catalog's database or role does not exist", _DEPLOY),
)


@contextmanager
def translated() -> Iterator[None]:
    """Run the body; every vendor error in it is raised as one of ``entrepot.errors``."""
    try:
        yield
    except (psycopg.Error, exc.SQLAlchemyError, UnicodeEncodeError) as error:
        raise translate(error) from error


def translate(error: Exception) -> EntrepotError:
    """The error of ours that says what ``error`` says."""
    if isinstance(error, exc.DBAPIError) and isinstance(error.orig, Exception):
        error = error.orig
    if isinstance(error, psycopg.Error):
        return _translate_psycopg(error)
    if isinstance(error, exc.TimeoutError):
        return Unavailable("no connection to the catalog became free in time")
    if isinstance(error, UnicodeEncodeError | exc.StatementError):
        return InvalidInput("the catalog cannot hold this value")
    return PermanentError("the catalog refused a statement", kind=type(error).__name__)


def _translate_psycopg(error: psycopg.Error) -> EntrepotError:
    facts = {
        "sqlstate": error.sqlstate,
        "constraint": error.diag.constraint_name,
        "table": error.diag.table_name,
    }
    where = {name: value for name, value in facts.items() if value}
    if error.sqlstate is None:
        for words, kind, message, hint in _BY_WORDS:
            if words in str(error):
                return kind(message, hint=hint)
    for classes, kind, message, hint in _BY_CLASS:
        if isinstance(error, classes):
            return kind(message, hint=hint, **where)
    return PermanentError("the catalog refused a statement", **where)
