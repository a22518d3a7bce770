"""Cards from an OpenAPI document: one for each operation, under a name that stays."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from moma_core import AgentCard, InvalidInputError
from moma_core.types import MAX_DESCRIPTION_CHARS, Words, check_names, is_text, joined

__all__ = ["cards_from_openapi"]

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
_ODD = re.compile(r"[^A-Za-z0-9_-]+")  # what providers refuse in a tool's name
_NAME = 64  # characters of it that they take
_DEPTH = 4  # of a schema that is kept; what lies deeper tells operations apart no more
_NOT_KEPT = frozenset({"example", "examples", "xml", "externalDocs", "discriminator"})
_BODY = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def cards_from_openapi(
    document: Mapping[str, Any] | str | Path,
    examples: Words | None = None,
    *,
    deprecated: bool = True,
    server: str = "",
) -> list[AgentCard]:
    """Describe the operations of an OpenAPI or Swagger document to the router.

    A card's name is the ``operationId`` in letters that every provider takes, else method and path;
    it depends on its operation alone, unless two share an id: then both go by method and path.

    Args:
        document: The document as a dict, as JSON or YAML text, or the path of its file.
        examples: Queries that each operation should take, by its card's name.
        deprecated: Whether deprecated operations are kept.
        server: What `sync_agents` is to know the operations by, in ``metadata["source"]``.

    Returns:
        One card an operation, in order: summary and description, parameters and request body as
        ``input_schema``, tags as categories, and ``metadata`` with method and path.

    Raises:
        InvalidInputError: It is no OpenAPI document, or cannot be read.
        UnknownNameError: ``examples`` speak of an operation that is not there.

    Example:
        >>> [card] = cards_from_openapi('''
        ... openapi: 3.1.0
        ... paths:
        ...   /pets/{id}:
        ...     get:
        ...       operationId: pets.show
        ...       summary: Show one pet
        ...       tags: [pets]
        ...       parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
        ... ''')
        >>> card.name, card.description, card.categories, card.input_schema["required"]
        ('pets_show', 'Show one pet', ('pets',), ['id'])
    """
    read = _Document(_read(document))
    operations = [each for each in read.operations() if deprecated or not each.is_deprecated]
    names = _named(operations)
    check_names("operation", names, examples)
    return [
        AgentCard(
            name=name,
            description=operation.description[:MAX_DESCRIPTION_CHARS],
            input_schema=read.arguments(operation),
            categories=operation.categories,
            examples=joined("examples", name, (examples or {}).get(name, ())),
            metadata=operation.metadata | ({"source": server} if server else {}),
        )
        for name, operation in zip(names, operations, strict=True)
    ]


def _read(document: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    if isinstance(document, str | Path):
        is_file = isinstance(document, Path) or not ("\n" in document or "{" in document)
        try:
            text = Path(document).read_text(encoding="utf-8") if is_file else str(document)
            found = json.loads(text) if text.lstrip()[:1] == "{" else yaml.load(text, _LOADER)  # noqa: S506  # a safe one
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise InvalidInputError(
                f"cannot read the OpenAPI document: {error}. Give its dict, its JSON or YAML "
                "text, or the path of its file."
            ) from error
        document = found
    if not isinstance(document, Mapping) or not isinstance(document.get("paths"), Mapping):
        raise InvalidInputError(
            f"an OpenAPI document has 'paths', got {document!r:.60}. Give the whole document, such "
            "as cards_from_openapi('openapi.json')."
        )
    return document


class _Operation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    about: Mapping[str, Any]
    parameters: Sequence[Any]

    @property
    def is_deprecated(self) -> bool:
        return bool(self.about.get("deprecated"))

    @property
    def description(self) -> str:
        """Summary, then description; where there is neither, the words of method and path."""
        said = [str(self.about.get(key) or "").strip() for key in ("summary", "description")]
        words = [text for i, text in enumerate(said) if is_text(text) and text not in said[:i]]
        return ". ".join(text.rstrip(".") for text in words) or self.words

    @property
    def words(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def id(self) -> str:
        """The id in letters that every provider takes, or method and path."""
        given = _ODD.sub("_", str(self.about.get("operationId") or "")).strip("_")
        return _cut(given) if given else self.slug

    @property
    def slug(self) -> str:
        """Method and path."""
        return _cut(f"{self.method}_{_ODD.sub('_', self.path).strip('_')}".strip("_"))

    @property
    def categories(self) -> tuple[str, ...]:
        tags = self.about.get("tags")
        listed = tags if isinstance(tags, Sequence) and not isinstance(tags, str) else ()
        words = (" ".join(str(tag).split())[:_NAME].strip() for tag in listed)
        return tuple(dict.fromkeys(tag for tag in words if is_text(tag)))

    @property
    def metadata(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"method": self.method, "path": self.path}
        return plain | ({"deprecated": True} if self.is_deprecated else {})


def _cut(name: str) -> str:
    """Return a name that is short enough, still telling from others that begin alike."""
    if len(name) <= _NAME:
        return name
    return f"{name[: _NAME - 9]}_{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _named(operations: Sequence[_Operation]) -> list[str]:
    """Return unique names: the id, else method and path, else these and what tells them apart."""
    ids = Counter(operation.id for operation in operations)
    names = [each.id if ids[each.id] == 1 else each.slug for each in operations]
    again = Counter(names)
    return [
        name if again[name] == 1 else f"{name[: _NAME - 9]}_{_digest(each.words)}"
        for name, each in zip(names, operations, strict=True)
    ]


class _Document:
    """An OpenAPI document whose references can be followed within it.

    Args:
        root: The document.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def operations(self) -> Iterator[_Operation]:
        """Yield the operations, in order."""
        for path, found in self._root["paths"].items():
            item = self._followed(found)
            common = self._listed(item.get("parameters"))
            for method in _METHODS:
                about = item.get(method)
                if isinstance(about, Mapping):
                    own = self._listed(about.get("parameters"))
                    yield _Operation(method, str(path), about, [*common, *own])

    def arguments(self, operation: _Operation) -> dict[str, Any]:
        """Return the JSON schema of parameters and body together."""
        properties: dict[str, Any] = {}
        required: dict[str, None] = {}
        body: Mapping[str, Any] = {}
        for parameter in operation.parameters:
            name = str(parameter.get("name") or "")
            if parameter.get("in") == "body":  # Swagger 2
                body = {"schema": parameter.get("schema"), "required": parameter.get("required")}
            elif name:
                properties[name] = self._parameter(parameter)
                required |= {name: None} if parameter.get("required") else {}
        more, needed = self._body(body or self._body_of(operation), set(properties))
        return {
            "type": "object",
            "properties": properties | more,
            "required": [*required, *needed],
        }

    def _parameter(self, parameter: Mapping[str, Any]) -> dict[str, Any]:
        inner = parameter.get("schema")
        schema = self._schema(parameter if inner is None else inner)
        for key in ("name", "in", "required", "schema", "style", "explode"):
            if inner is None:  # Swagger 2 has no schema around the type
                schema.pop(key, None)
        about = parameter.get("description")
        return schema | ({"description": str(about)} if about else {})

    def _body_of(self, operation: _Operation) -> Mapping[str, Any]:
        body = self._followed(operation.about.get("requestBody"))
        content = self._followed(body.get("content"))
        kinds = [*(kind for kind in _BODY if kind in content), *content]
        media = self._followed(content.get(kinds[0])) if kinds else {}
        return {"schema": media.get("schema"), "required": body.get("required")}

    def _body(
        self, body: Mapping[str, Any], taken: set[str]
    ) -> tuple[dict[str, Any], Sequence[str]]:
        """Return a body's fields beside the parameters, or the whole where that cannot be."""
        if body.get("schema") is None:
            return {}, ()
        schema = self._schema(body["schema"])
        parts = [schema, *schema.get("allOf", ())]
        fields = {k: v for part in parts for k, v in part.get("properties", {}).items()}
        if not fields or taken.intersection(fields):
            return {"body": schema}, ["body"] if body.get("required") else ()
        needed = [str(n) for part in parts for n in part.get("required", ()) if n in fields]
        return fields, list(dict.fromkeys(needed)) if body.get("required", True) else ()

    def _schema(self, node: object, depth: int = 0) -> dict[str, Any]:
        """Return a schema with its references filled in, as deep as matters."""
        kept: dict[str, Any] = {}
        for key, value in self._followed(node).items():
            if key in _NOT_KEPT or str(key).startswith("x-"):
                continue
            if key == "properties" and isinstance(value, Mapping):
                value = {str(n): self._deeper(inner, depth) for n, inner in value.items()}
            elif key in ("allOf", "anyOf", "oneOf") and isinstance(value, list):
                value = [self._deeper(inner, depth) for inner in value]
            elif isinstance(value, Mapping):
                value = self._deeper(value, depth)
            elif isinstance(value, list):
                value = [_plain(each) for each in value if not isinstance(each, Mapping | list)]
            kept[str(key)] = value if isinstance(value, dict | list) else _plain(value)
        return kept

    def _deeper(self, node: object, depth: int) -> dict[str, Any]:
        return self._schema(node, depth + 1) if depth < _DEPTH else {}

    def _listed(self, nodes: object) -> list[Mapping[str, Any]]:
        return [self._followed(node) for node in nodes] if isinstance(nodes, list) else []

    def _followed(self, node: object) -> Mapping[str, Any]:
        """Return what a node is or refers to; nothing where that is not in the document."""
        for _ in range(_DEPTH):
            if not isinstance(node, Mapping) or not isinstance(node.get("$ref"), str):
                break
            node = self._at(node["$ref"])
        return node if isinstance(node, Mapping) and "$ref" not in node else {}

    def _at(self, reference: str) -> object:
        node: object = self._root if reference.startswith("#/") else None
        for key in reference.removeprefix("#/").split("/"):
            name = key.replace("~1", "/").replace("~0", "~")
            node = node.get(name) if isinstance(node, Mapping) else None
        return node


def _plain(value: Any) -> Any:
    """Return a scalar as JSON knows it: YAML has dates."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
