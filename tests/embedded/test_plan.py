"""What an ``up`` makes of the plan that is kept and of what was asked for."""

from itertools import count
from typing import Any

import pytest

from entrepot.embedded.plan import Plan, revise
from entrepot.errors import InvalidInput, SetupError


def made(kept: Plan | None = None, **asked: Any) -> Plan:
    ports = count(40000)
    defaults: dict[str, Any] = {
        "sites": None,
        "port_base": None,
        "prefect": True,
        "gateway": False,
        "free_port": lambda: next(ports),
        "is_free": lambda port: port != 40001,
    }
    return revise(kept, **defaults | asked)


def test_defaults() -> None:
    plan = made()
    assert plan.ports == {
        "site-a": 19000,
        "site-b": 19001,
        "postgres": 19050,
        "prefect": 19060,
        "gateway": 19080,
    }
    assert "gateway" not in plan.used_ports


def test_nothing_asked_keeps_all() -> None:
    assert made(made(sites=3, port_base=20000)) == made(sites=3, port_base=20000)
    free = made(port_base=0)
    assert made(free).ports == free.ports


def test_a_new_site_leaves_the_other_ports() -> None:
    free = made(port_base=0)
    more = made(free, sites=3, free_port=lambda: 50000)
    assert more.ports == free.ports | {"site-c": 50000}


def test_port_base_0_again_replaces_taken_ports_only() -> None:
    free = made(port_base=0)
    again = made(free, port_base=0, free_port=lambda: 50000)
    assert {name for name in again.ports if again.ports[name] != free.ports[name]} == {"site-b"}


def test_out_of_range() -> None:
    for name, value in (("sites", 0), ("sites", 27), ("port_base", 80), ("port_base", 65500)):
        with pytest.raises(InvalidInput):
            made(None, **{name: value})
    with pytest.raises(SetupError):
        made(made(sites=3), sites=2)
