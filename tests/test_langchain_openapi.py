"""Cards from OpenAPI documents: names that stay, what each operation does and takes."""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool

from langchain_moma import cards_from_openapi, create_moma_agent, sync_agents
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, InvalidInputError, MoMARouter, UnknownNameError

DOCUMENT = """
openapi: 3.1.0
info: {title: Shop, version: 2026-01-01}
paths:
  /orders/{id}:
    parameters:
      - $ref: '#/components/parameters/Id'
    get:
      operationId: orders/get
      summary: Show an order.
      description: Tells where a parcel is.
      tags: [orders, parcels]
      parameters:
        - {name: since, in: query, schema: {type: string, format: date, default: 2026-01-01}}
    delete:
      summary: Cancel an order
      deprecated: true
  /orders:
    post:
      operationId: orders-create
      summary: Order things
      requestBody:
        required: true
        content:
          text/plain: {schema: {type: string}}
          application/json: {schema: {$ref: '#/components/schemas/Order'}}
  /a~b:
    get: {}
  /notes:
    put:
      requestBody: {content: {application/json: {schema: {type: array, items: {type: string}}}}}
components:
  parameters:
    Id: {name: id, in: path, required: true, description: The order's number,
         schema: {type: integer}}
  schemas:
    Order:
      allOf:
        - type: object
          required: [item]
          properties: {item: {type: string, example: tea}, then: {$ref: '#/components/schemas/Order'}}
        - properties: {note: {type: string, x-hidden: true}}
"""  # noqa: E501


def by_name(cards: list[AgentCard]) -> dict[str, AgentCard]:
    return {card.name: card for card in cards}


def test_what_an_operation_says_is_on_its_card() -> None:
    cards = by_name(cards_from_openapi(DOCUMENT, {"orders_get": ["where is my parcel?"]}))
    assert list(cards) == [
        "orders_get",
        "delete_orders_id",
        "orders-create",
        "get_a_b",
        "put_notes",
    ]
    shown = cards["orders_get"]
    assert shown.description == "Show an order. Tells where a parcel is"
    assert shown.categories == ("orders", "parcels")
    assert shown.examples == ("where is my parcel?",)
    assert shown.metadata == {"method": "get", "path": "/orders/{id}"}
    assert shown.input_schema["required"] == ["id"]
    assert shown.input_schema["properties"] == {
        "id": {"type": "integer", "description": "The order's number"},
        "since": {"type": "string", "format": "date", "default": "2026-01-01"},
    }
    assert cards["delete_orders_id"].metadata["deprecated"] is True
    assert list(cards["delete_orders_id"].input_schema["properties"]) == ["id"]
    made = cards["orders-create"].input_schema
    assert (list(made["properties"]), made["required"]) == (["item", "then", "note"], ["item"])
    assert made["properties"]["item"] == {"type": "string"}
    assert made["properties"]["note"] == {"type": "string"}
    assert cards["get_a_b"].description == "GET /a~b"
    whole = cards["put_notes"].input_schema["properties"]["body"]
    assert whole == {"type": "array", "items": {"type": "string"}}


def test_a_document_in_any_form_gives_the_same_cards(tmp_path: Path) -> None:
    expected = cards_from_openapi(DOCUMENT)
    plain = yaml.safe_load(DOCUMENT)
    text = json.dumps(plain, default=str)
    (tmp_path / "shop.yaml").write_text(DOCUMENT, encoding="utf-8")
    (tmp_path / "shop.json").write_text(text, encoding="utf-8")
    for form in (plain, text, tmp_path / "shop.yaml", str(tmp_path / "shop.json")):
        assert cards_from_openapi(form) == expected


def test_deprecated_operations_are_left_out_on_request() -> None:
    kept = cards_from_openapi(DOCUMENT, deprecated=False)
    assert "delete_orders_id" not in by_name(kept)
    assert len(kept) == len(cards_from_openapi(DOCUMENT)) - 1


def test_swagger_2() -> None:
    [card] = cards_from_openapi(
        {
            "swagger": "2.0",
            "paths": {
                "/pets": {
                    "post": {
                        "operationId": "addPet",
                        "parameters": [
                            {"name": "dry", "in": "query", "type": "boolean", "required": True},
                            {"name": "pet", "in": "body", "schema": {"$ref": "#/definitions/Pet"}},
                        ],
                    }
                }
            },
            "definitions": {"Pet": {"properties": {"name": {"type": "string"}}}},
        }
    )
    assert card.input_schema["properties"] == {
        "dry": {"type": "boolean"},
        "name": {"type": "string"},
    }
    assert card.input_schema["required"] == ["dry"]


@pytest.mark.parametrize(
    "wrong", ["{", "a: [", "nowhere.json", "openapi: 3.1.0\ninfo: {}", {"paths": []}, ["x"]]
)
def test_what_is_no_document_says_so(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="OpenAPI document"):
        cards_from_openapi(wrong)
    with pytest.raises(UnknownNameError, match="orders_gte"):
        cards_from_openapi(DOCUMENT, {"orders_gte": ["where is it?"]})


operations = st.lists(
    st.tuples(
        st.sampled_from(["get", "post", "delete"]),
        st.text("ab/{}.\u00e9~-", min_size=1, max_size=90),
        st.one_of(st.none(), st.text("ab./ \u00e9", max_size=90)),
    ),
    unique_by=lambda each: each[:2],
    max_size=12,
)


def documented(found: list[Any]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for method, path, name in found:
        paths.setdefault(path, {})[method] = {} if name is None else {"operationId": name}
    return {"paths": paths}


@given(found=operations)
def test_names_are_unique_stay_and_fit_every_provider(found: list[Any]) -> None:
    def named(found: list[Any]) -> dict[tuple[str, str], str]:
        cards = cards_from_openapi(documented(found))
        return {(card.metadata["method"], card.metadata["path"]): card.name for card in cards}

    names = named(found)
    assert len(set(names.values())) == len(names) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names.values())
    assert named(found[::-1]) == names  # whatever the order


def test_a_reference_to_itself_and_a_bomb_end() -> None:
    loop = {"paths": {"/": {"get": {"parameters": [{"$ref": "#/components/parameters/A"}]}}}}
    loop["components"] = {"parameters": {"A": {"$ref": "#/components/parameters/A"}}}
    assert cards_from_openapi(loop)[0].input_schema["properties"] == {}
    bomb = "a0: &a0 {type: string}\n"
    for i in range(1, 30):
        bomb += f"a{i}: &a{i} {{properties: {{x: *a{i - 1}, y: *a{i - 1}}}}}\n"
    bomb += "paths: {/: {post: {requestBody: {content: {application/json: {schema: *a29}}}}}}\n"
    start = time.perf_counter()
    assert list(cards_from_openapi(bomb)[0].input_schema["properties"]) == ["x", "y"]
    assert time.perf_counter() - start < 2


def test_580_operations_are_read_and_registered_quickly() -> None:
    paths = {
        f"/things/{i}/{{id}}": {
            "get": {
                "operationId": f"things_{i}_get",
                "summary": f"Show thing number {i} of the shop",
                "parameters": [{"name": "id", "in": "path", "schema": {"type": "string"}}],
                "tags": ["things"],
            }
        }
        for i in range(580)
    }
    start = time.process_time()
    cards = cards_from_openapi(json.dumps({"paths": paths}), server="shop")
    assert time.process_time() - start < 1
    router = MoMARouter.from_cards(llms=None)
    assert len(sync_agents(router.agents, cards, source="shop").added) == 580
    assert time.process_time() - start < 10
    assert not sync_agents(router.agents, cards, source="shop").updated


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")
def test_llamaindexs_own_openapi_tool_shows_the_operation_that_was_routed_to() -> None:
    tools = pytest.importorskip("llama_index.tools.openapi")
    paths = {
        "/weather": {"get": {"operationId": "weather_forecast", "summary": "Forecast the weather"}},
        "/invoices": {"post": {"operationId": "make_invoice", "summary": "Write an invoice"}},
    }
    for path in paths.values():
        for operation in path.values():
            operation["responses"] = {"200": {"description": "well"}}
    document = {"openapi": "3.1.0", "info": {}, "servers": [{"url": "https://x.test"}]}
    document["paths"] = paths
    router = MoMARouter.from_cards(cards_from_openapi(document), llms=None)
    [name] = router.rank("write an invoice for the customer", 1).names
    where = router.agents.get(name).metadata
    spec = tools.OpenAPIToolSpec(document, operation_id_filter=lambda found: found == name)
    [shown] = spec.to_tool_list()[0]().raw_output
    [endpoint] = json.loads(shown.text)["endpoints"]
    assert endpoint["verb"].lower() == where["method"] == "post"
    assert endpoint["path_template"] == where["path"]


class Shop(http.server.BaseHTTPRequestHandler):
    """Answers what it was asked: method, path, body."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        said = json.dumps([self.command, self.path, body]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[dict[str, Any]]:
    """The document of a server that runs."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    string, well = {"type": "string"}, {"200": {"description": "well"}}
    city = {"name": "city", "in": "path", "required": True, "schema": string}
    body = {"schema": {"type": "object", "properties": {"to": string}}}
    weather = {"operationId": "weather_forecast", "summary": "Forecast the weather"}
    invoice = {"operationId": "make_invoice", "summary": "Write an invoice"}
    yield {
        "openapi": "3.1.0",
        "info": {"title": "Shop", "version": "1"},
        "servers": [{"url": f"http://127.0.0.1:{server.server_port}"}],
        "paths": {
            "/weather/{city}": {"get": {**weather, "parameters": [city], "responses": well}},
            "/invoices": {
                "post": {
                    **invoice,
                    "requestBody": {"content": {"application/json": body}},
                    "responses": well,
                }
            },
        },
    }
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("query", "arguments", "asked"),
    [
        ("will it rain?", {"path_params": {"city": "Oslo"}}, ["GET", "/weather/Oslo", ""]),
        (
            "invoice for Ada",
            {"json": {"customer": "A"}},
            ["POST", "/invoices", '{"customer": "A"}'],
        ),
    ],
)
def test_langchains_own_functions_run_what_was_routed_to(
    shop: dict[str, Any], query: str, arguments: dict[str, Any], asked: list[str]
) -> None:
    from langchain_classic.chains.openai_functions.openapi import openapi_spec_to_openai_fn
    from langchain_community.utilities.openapi import OpenAPISpec

    router = MoMARouter.from_cards(cards_from_openapi(shop), llms=None)
    functions, call = openapi_spec_to_openai_fn(OpenAPISpec.from_spec_dict(shop))
    tools = [
        StructuredTool.from_function(
            lambda name=each["name"], **given: call(name, given).text,
            name=each["name"],
            description=each["description"],
            args_schema=each["parameters"],
        )
        for each in functions
    ]
    chat = ScriptedChat(reply=lambda messages, bound, _: (
        messages[-1].text if messages[-1].type == "tool" else AIMessage("", tool_calls=[
            {"name": bound[0]["function"]["name"], "args": arguments, "id": "1"}])
    ))  # fmt: skip
    agent = create_moma_agent(chat, tools, router=router, max_tools=1)
    end = agent.invoke({"messages": [("human", query)]})
    assert json.loads(end["messages"][-1].text.removeprefix("scripted heard: ")) == asked


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_langchains_request_tools_take_method_and_path_from_the_card(shop: dict[str, Any]) -> None:
    from langchain_community.agent_toolkits.openapi.toolkit import RequestsToolkit
    from langchain_community.utilities.requests import TextRequestsWrapper

    router = MoMARouter.from_cards(cards_from_openapi(shop), llms=None)
    where = router.agents[router.rank("write an invoice for the customer", 1).names[0]].metadata
    toolkit = RequestsToolkit(
        requests_wrapper=TextRequestsWrapper(headers={}), allow_dangerous_requests=True
    )
    tools = {each.name: each for each in toolkit.get_tools()}
    asked = {"url": shop["servers"][0]["url"] + where["path"], "data": {"to": "Ada"}}
    said = tools[f"requests_{where['method']}"].invoke(json.dumps(asked))
    assert json.loads(said)[:2] == ["POST", "/invoices"]
