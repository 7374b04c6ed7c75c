"""What every flow and task promises, read from the code and from Prefect's own objects."""

import ast
import importlib
import inspect
from datetime import datetime, timedelta
from enum import Enum
from types import NoneType
from typing import Any, get_args
from uuid import UUID

import pytest
import yaml
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from pydantic import AwareDatetime

from deployments.register import PREFECT_FILE, QUEUES
from entrepot.errors import BucketNotFound, Busy, InvalidInput, NotFound
from flows import hints
from tasks.library import worth_retrying
from tests.sources import dotted, sources

BODY_MAX_LINES = 15
"""STYLE asks for about 12 around one library call; opening catalog and sites takes four."""

SMALL = (bool, datetime, AwareDatetime, UUID)
"""Types of a field that need no bound."""

LONG = (
    *("sweep_shard", "count_buckets", "check_bucket", "compare"),
    *("apply_plan", "stream_rule", "back_up_site", "plan_bucket", "apply_saved"),
)

MODULES = [
    importlib.import_module(".".join(source.parts))
    for source in sources("flows", "tasks")
    if source.parts[-1] not in ("flows", "tasks")
]
TASKS: dict[str, Task[Any, Any]] = {
    f"{module.__name__}.{name}": each
    for module in MODULES
    for name, each in vars(module).items()
    if isinstance(each, Task) and each.fn.__module__ == module.__name__
}
FLOWS: dict[str, Flow[Any, Any]] = {
    f"{module.__name__}.{name}": each
    for module in MODULES
    for name, each in vars(module).items()
    if isinstance(each, Flow) and each.fn.__module__ == module.__name__
}


def test_there_are_some() -> None:
    assert len(TASKS) >= 8
    assert len(FLOWS) >= 2


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_prefect_does_with_it(name: str) -> None:
    task = TASKS[name]
    assert task.retries == 3
    assert task.retry_condition_fn is worth_retrying
    assert task.cache_policy == NO_CACHE
    assert task.persist_result is False
    assert "entrepot" in task.tags
    assert task.task_run_name
    assert task.description


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_takes_one_bounded_request(name: str) -> None:
    [parameter] = inspect.signature(FLOWS[name].fn).parameters.values()
    assert parameter.name == "request"
    model = parameter.annotation
    assert model.model_config["frozen"] and model.model_config["extra"] == "forbid"
    for field_name, field in model.model_fields.items():
        assert field.description, field_name
        bounds = [each for each in field.metadata if type(each).__name__ in ("Le", "MaxLen")]
        kind = next(iter(set(get_args(field.annotation)) - {NoneType}), field.annotation)
        is_small = kind in SMALL or (isinstance(kind, type) and issubclass(kind, Enum))
        assert bounds or is_small, f"{field_name} has no upper bound"
    required = [each for each in model.model_fields.values() if each.is_required()]
    assert not required  # the form needs no field, whatever the model says of all together


def test_every_flow_is_deployed_by_its_module() -> None:
    found = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    assert {each["entrypoint"].rsplit(".", 1)[0] for each in found} == {
        flow.fn.__module__ for flow in FLOWS.values()
    }
    for each in found:
        assert each["work_pool"]["work_queue_name"] in QUEUES
        # A stream's next run waits beside the one before, and those of single rules; buckets are
        # restored side by side.
        beside = each["entrypoint"].startswith(("flows.replicate_stream.", "flows.restore."))
        most = 8 if beside else 1
        assert each["description"] and each["concurrency_limit"]["limit"] == most


def tasks_of_code() -> list[tuple[str, ast.FunctionDef]]:
    return [
        (f"{source.path}:{node.name}", node)
        for source in sources("tasks")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef)
        and any(
            dotted(each.func if isinstance(each, ast.Call) else each) == "task"
            for each in node.decorator_list
        )
    ]


def test_a_task_is_a_thin_call() -> None:
    found = tasks_of_code()
    assert len(found) == len(TASKS)
    long = {}
    for name, node in found:
        docstring = node.body[0]
        assert isinstance(docstring, ast.Expr), name
        assert docstring.end_lineno and node.end_lineno
        lines = node.end_lineno - docstring.end_lineno
        if lines > BODY_MAX_LINES:
            long[name] = lines
    assert long == {}


def test_blocks_are_not_loaded_at_import() -> None:
    # Loading is a call to the server: only inside of functions.
    for source in sources("blocks", "tasks", "flows"):
        for node in source.tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
                assert not [each for each in calls if dotted(each.func).endswith("load")]


def test_only_what_may_heal_is_tried_again() -> None:
    class State:
        def __init__(self, data: object) -> None:
            self.data = data

    def asked(data: object) -> bool:
        return worth_retrying(None, None, State(data))  # type: ignore[arg-type]

    assert asked(Busy("another holder works on this"))
    assert not asked(BucketNotFound("a bucket is missing"))
    assert not asked(ValueError("ours"))
    assert not asked("a result")


def test_a_run_shows_the_hint_below_the_error() -> None:
    with pytest.raises(NotFound) as told, hints.shown():
        raise NotFound("there is no such rule", hint="entrepot replicate rule add", rule="x")
    assert str(told.value) == (
        "there is no such rule (rule 'x')\nhint: entrepot replicate rule add"
    )
    with pytest.raises(InvalidInput, match=r"^no hint$"), hints.shown():
        raise InvalidInput("no hint")


def test_short_tasks_end_in_time_and_sweeps_may_last() -> None:
    for name, task in TASKS.items():
        long = task.fn.__name__ in LONG
        limit = timedelta(seconds=task.timeout_seconds) if task.timeout_seconds else None
        assert (limit is None) is long, name
