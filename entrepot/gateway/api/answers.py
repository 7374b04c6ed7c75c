"""What errors look like to those who hold a token: a word, a message, a hint, wrong fields."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from entrepot.catalog.rule import problems
from entrepot.errors import (
    AlreadyExists,
    EntrepotError,
    InvalidInput,
    NotFound,
    Paused,
    PreconditionFailed,
    Unsupported,
)
from entrepot.gateway.api.gate import RETRY_AFTER_S
from entrepot.metrics import Metrics


class Problem(BaseModel):
    """The body of every answer that is not 2xx."""

    error: str = Field(description="One word, for programs")
    message: str = Field(description="What is wrong, for people")
    hint: str = Field(default="", description="What to do about it")
    fields: list[str] = Field(default=[], description="Each field that is wrong, and why")


REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": Problem, "description": words}
    for code, words in (
        (401, "no valid token"),
        (403, "a token for something else"),
        (404, "there is no such thing"),
        (409, "it contradicts how things stand"),
        (413, "a body of more than 64 KiB"),
        (422, "a field is unknown or wrong"),
        (503, "a catalog or Prefect does not answer"),
    )
}

_BY_KIND: Final[Mapping[type[EntrepotError], tuple[int, str]]] = {
    NotFound: (404, "not_found"),
    InvalidInput: (422, "invalid"),
    Unsupported: (422, "unsupported"),
    AlreadyExists: (409, "conflict"),
    PreconditionFailed: (409, "conflict"),
    Paused: (409, "paused"),
}
_BY_STATUS: Final = {403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def answer_errors(app: FastAPI, metrics: Metrics) -> None:
    """Make every error of ``app`` a ``Problem``. Any other error of ours is 503, a bug is 500."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, EntrepotError)
        metrics.errors.labels(type(error).__name__).inc()
        kinds = [kind for kind in type(error).__mro__ if kind in _BY_KIND]
        if not kinds:
            problem = Problem(error="unavailable", message="ask again later")
            return _answer(503, problem, {"Retry-After": str(RETRY_AFTER_S)})
        status, word = _BY_KIND[kinds[0]]
        return _answer(status, Problem(error=word, message=str(error), hint=error.hint))

    async def unreadable(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        metrics.errors.labels("InvalidInput").inc()
        shown = problems(error.errors())
        return _answer(
            422, Problem(error="invalid", message="a field is unknown or wrong", fields=shown)
        )

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 400:  # bytes that FastAPI cannot read as JSON at all
            return _answer(422, Problem(error="invalid", message="the body is not JSON"))
        word = _BY_STATUS.get(error.status_code, "refused")
        problem = Problem(error=word, message=str(error.detail))
        return _answer(error.status_code, problem, error.headers)

    async def bug(_: Request, error: Exception) -> Response:
        metrics.errors.labels(type(error).__name__).inc()
        return _answer(500, Problem(error="internal", message="see the log"))

    app.add_exception_handler(EntrepotError, ours)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


def _answer(status: int, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    body = problem.model_dump(exclude_defaults=True)
    return JSONResponse(body, status_code=status, headers=headers)
