"""The OpenAPI 3.1 document of an app, derived from the operations its routes are bound to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from sealwire.kit.exchange import BODILESS
from sealwire.kit.http import Route
from sealwire.kit.operation import PARAMETER, Operation, Policy
from sealwire.kit.problem import Problem

PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "required": ["type", "title", "status", "detail", "instance", "code", "retry", "trace_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "description": "Stable, snake_case."},
        "retry": {"type": "string", "enum": ["never", "after", "now"]},
        "trace_id": {"type": "string"},
        "path": {"type": "string", "description": "Where in the request the fault is."},
        "allowed": {
            "type": "array",
            "items": {"type": ["string", "integer"]},
            "description": "The values of the enumeration that stands at `path`.",
        },
    },
}


def document(routes: Iterable[Route], *, title: str, version: str) -> dict[str, Any]:
    """Return the document of these routes."""
    routes = [route for route in routes if route.socket is None and route.policy is not Policy.LOOPBACK]
    types = list(dict.fromkeys(
        t for r in routes if r.operation is not None for t in (r.operation.takes, r.operation.gives) if t is not None
    ))  # fmt: skip
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        path = PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.verb.lower()] = _describe(route, schema_of, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**components, "Problem": PROBLEM_SCHEMA},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _describe(route: Route, schema_of: dict[type, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation = route.operation
    about: dict[str, Any] = {
        "summary": operation.summary if operation else route.summary,
        "operationId": f"{operation.service}_{operation.name}" if operation else _slug(route),
        "tags": [operation.service if operation else _tag(route.path)],
        "responses": {"default": {"description": "A problem", "content": {"application/problem+json": {
            "schema": PROBLEM_REF}}}},
    }  # fmt: skip
    if route.policy is Policy.CALLER:
        about["security"] = [{"bearer": []}]
    about["x-sealwire"] = {
        "policy": route.policy.value,
        "permission": route.needs.value if route.needs else None,
        "degraded": route.degraded.value,
        "step_up": route.step_up,
        "rate_class": route.rate.value,
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if kind else "string"}}
        for name, kind in PARAMETER.findall(route.path)
    ]
    if operation is None:
        about["responses"]["200"] = {"description": "See the guide of this protocol"}
    else:
        parameters += _describe_operation(operation, about, schema_of, components)
    if parameters:
        about["parameters"] = parameters
    return about


def _describe_operation(
    operation: Operation, about: dict[str, Any], schema_of: dict[type, Any], components: dict[str, Any]
) -> list[dict[str, Any]]:
    """Fill in body and answers; return the query's parameters."""
    statuses = [operation.status] if isinstance(operation.status, int) else [200, 201, 202]
    answer: dict[str, Any] = {"description": "Done"}
    if operation.status not in BODILESS:
        schema = {"type": "object"} if operation.gives is None else schema_of[operation.gives]
        answer["content"] = {"application/json": {"schema": schema}}
    for status in statuses:
        about["responses"][str(status)] = answer
    if operation.takes is None:
        return []
    if operation.takes_query:
        members = components[operation.takes.__name__]
        required = members.get("required", [])
        return [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in members.get("properties", {}).items()
        ]
    media_type = "application/x-www-form-urlencoded" if operation.form else "application/json"
    about["requestBody"] = {"required": True, "content": {media_type: {"schema": schema_of[operation.takes]}}}
    return []


def _tag(path: str) -> str:
    return path.removeprefix("/api/v1").split("/")[1]


def _slug(route: Route) -> str:
    words = PARAMETER.sub(r"\1", route.path).replace("*", "rest").replace(".", "_").strip("/").replace("/", "_")
    return f"{route.verb.lower()}_{words}".replace("-", "_")


def problem_codes() -> dict[str, type[Problem]]:
    """Return every problem class by its code, for clients and the reference. Imported contracts only."""
    found: dict[str, type[Problem]] = {}
    todo: list[type[Problem]] = [Problem]
    while todo:
        cls = todo.pop()
        found.setdefault(cls.code, cls)
        todo += cls.__subclasses__()
    return found
