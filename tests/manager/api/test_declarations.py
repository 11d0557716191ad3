"""A request is declared once: the reading of it and the OpenAPI document say the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from starlette.requests import Request

from kruise_agents.manager.api.errors import ApiError
from kruise_agents.manager.api.openapi import document
from kruise_agents.manager.api.reading import Spec, allow_only, read_body, read_parameters, refuse
from kruise_agents.manager.api.routes import Access, ApiRoute, Resource, Topic, operation
from kruise_agents.protocol.fields import Fields


def check_count(name: str, count: int) -> None:
    if count > 3:
        raise ApiError(400, f"{name} is {count}")


@dataclass(frozen=True)
class Inner:
    flag: bool = False
    number: int | None = None


@dataclass(frozen=True)
class Outer:
    sandbox_id: str
    count: Annotated[int, Spec(check=check_count, maximum=3)] = 1
    odd_name: Annotated[str | None, Spec(name="odd_name")] = None
    texts: list[str] = field(default_factory=list)
    map: dict[str, str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    entries: list[Inner] = field(default_factory=list)

    @staticmethod
    def check(fields: Fields) -> None:
        refuse(fields, {"never": "there is none"})


@dataclass(frozen=True)
class Query:
    start: Annotated[int | None, Spec(minimum=0)] = None
    order: Literal["asc", "desc"] = "desc"
    text: str = ""


class Routes(Resource):
    topic = Topic.VOLUMES

    @operation("POST /one/{name:path}", "One", (404,), meanings={409: "It is there"}, status=201, access=Access.PUBLIC)
    async def one(self, request: Request, query: Query, body: Outer) -> Outer:
        raise NotImplementedError

    @operation("DELETE /two", "Two", also="/v2/two")
    async def two(self, request: Request) -> None:
        raise NotImplementedError


def refusal(**values: Any) -> str:
    with pytest.raises(ApiError) as caught:
        read_body(Outer, Fields(values))
    assert caught.value.status == 400
    return caught.value.message


def test_a_body_is_read_as_declared() -> None:
    everything = {
        "sandboxID": "i",
        "count": 2.0,
        "odd_name": "o",
        "texts": ["a"],
        "map": {"a": "b"},
        "inner": {"flag": True},
        "entries": [{}, {"number": 1}],
        "unknown": 1,
    }
    inner = [Inner(), Inner(number=1)]
    assert read_body(Outer, Fields(everything)) == Outer("i", 2, "o", ["a"], {"a": "b"}, Inner(flag=True), inner)


def test_absent_and_null_members_have_their_defaults() -> None:
    nulls = dict.fromkeys(("count", "odd_name", "texts", "map", "inner", "entries"))
    assert read_body(Outer, Fields({"sandboxID": "i", **nulls})) == read_body(Outer, Fields({"sandboxID": "i"}))
    first, second = (read_body(Outer, Fields({"sandboxID": "i"})) for _ in range(2))
    assert first == Outer("i")
    assert first.texts is not second.texts


def test_a_refusal_names_the_field_and_what_belongs_there() -> None:
    assert refusal() == "field 'sandboxID' is missing; it must be a string"
    assert refusal(sandboxID=1) == "field 'sandboxID' must be a string, got 1"
    assert refusal(sandboxID="i", count="x") == "field 'count' must be a whole number, got \"x\""
    assert refusal(sandboxID="i", count=4) == "count is 4"
    assert refusal(sandboxID="i", map={"a": None}) == "field 'map.a' must be a string, got null"
    assert refusal(sandboxID="i", inner=[]) == "field 'inner' must be an object, got []"
    assert refusal(sandboxID="i", inner={"flag": 1}) == "field 'inner.flag' must be true or false, got 1"
    assert refusal(sandboxID="i", entries=[{}, {"flag": 0}]) == "field 'entries[1].flag' must be true or false, got 0"
    assert refusal(never=1) == "field 'never' is not supported by this manager: there is none"
    with pytest.raises(ApiError, match=r'field "a\.c" is unknown; there are b'):
        allow_only(Fields({"c": 1}, ("a",)), "b")


def test_parameters_are_read_as_declared() -> None:
    assert read_parameters(Query, {}) == Query()
    assert read_parameters(Query, {"start": "7", "order": "asc", "text": "t"}) == Query(7, "asc", "t")
    for wrong in ({"start": "-1"}, {"start": "²"}, {"start": "x"}, {"order": "up"}):
        with pytest.raises(ApiError, match=f"{next(iter(wrong))} must be"):
            read_parameters(Query, wrong)


def test_the_document_says_what_is_read() -> None:
    described = document(Routes().routes())
    one = described["paths"]["/one/{name}"]["post"]
    assert [(p["name"], p["in"], p["required"]) for p in one["parameters"]] == [
        ("name", "path", True),
        ("start", "query", False),
        ("order", "query", False),
        ("text", "query", False),
    ]
    assert one["parameters"][1]["schema"] == {"type": "integer", "minimum": 0}
    assert one["parameters"][2]["schema"] == {"enum": ["asc", "desc"], "default": "desc"}
    assert (one["security"], sorted(one["responses"])) == ([], ["201", "404", "408", "409", "413"])
    assert one["responses"]["409"]["description"] == "It is there"
    assert one["responses"]["404"]["description"].startswith("Nothing of that name")
    assert (one["tags"], described["tags"]) == (["Volumes"], [{"name": "Volumes"}])
    outer = described["components"]["schemas"]["Outer"]
    assert outer["required"] == ["sandboxID"]
    count = {"anyOf": [{"type": "integer", "maximum": 3}, {"type": "null"}], "default": 1}
    assert outer["properties"]["count"] == count
    assert outer["properties"]["inner"]["anyOf"][0] == {"$ref": "#/components/schemas/Inner"}


def test_a_handler_may_have_two_paths_and_asks_for_a_key_unless_it_says_otherwise() -> None:
    routes = Routes().routes()
    assert [route.path for route in routes] == ["/one/{name:path}", "/two", "/v2/two"]
    assert all(isinstance(route, ApiRoute) for route in routes)
    assert [route.operation.access for route in routes] == [Access.PUBLIC, Access.KEY, Access.KEY]
