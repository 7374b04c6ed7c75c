"""The tree of errors: as drawn, carried between processes, retryable by branch."""

import pickle
import re

import pytest

from entrepot import errors
from entrepot.errors import EntrepotError, RetryableError, is_retryable


def _classes() -> list[type[EntrepotError]]:
    found = [EntrepotError]
    for kind in found:  # grows while it is read
        found.extend(kind.__subclasses__())
    return found


def _drawn_parents() -> dict[str, str]:
    """Name of each class in the drawing and of the one above it ("" for the root)."""
    assert errors.__doc__
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.fullmatch(r" {4}((?:[│ ] {3})*)(?:[├└]── )?([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4 + ("──" in line)
            parents[match[2]] = above[depth - 1] if depth else ""
            above[depth:] = [match[2]]
    return parents


def test_the_drawing_is_the_tree() -> None:
    actual = {
        kind.__name__: "" if kind is EntrepotError else kind.__mro__[1].__name__
        for kind in _classes()
    }
    assert _drawn_parents() == actual


def test_every_class_of_the_tree_is_in_the_module() -> None:
    assert {kind.__module__ for kind in _classes()} == {"entrepot.errors"}


@pytest.mark.parametrize("kind", _classes())
def test_pickling_keeps_everything(kind: type[EntrepotError]) -> None:
    error = kind("it broke", hint="try this", bucket="b", key="k", size_bytes=3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.hint, copy.fields) == (error.message, error.hint, error.fields)
    assert str(copy) == str(error) == "it broke (bucket 'b', key 'k', size_bytes 3)"


@pytest.mark.parametrize("kind", _classes())
def test_retryable_is_a_branch(kind: type[EntrepotError]) -> None:
    assert is_retryable(kind("it broke")) is issubclass(kind, RetryableError)


def test_foreign_errors_are_not_retryable() -> None:
    assert not is_retryable(TimeoutError())


def test_a_message_without_fields_stands_alone() -> None:
    assert str(errors.NotFound("no such object")) == "no such object"
