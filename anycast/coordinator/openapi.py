"""The OpenAPI document of the REST interface, made of `api`'s table. Pure."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
import pydantic.json_schema

from anycast.coordinator.api import ENDPOINTS, LARGEST_NUMBER, LONGEST_WORDS, REFUSALS, WHOLE_NAME, Endpoint, Refusal


def openapi(version: str) -> dict[str, Any]:
    """OpenAPI 3.1 of the table. `version` is the program's."""
    answers: list[type[pydantic.BaseModel]] = [Refusal, *(each.answer for each in ENDPOINTS if each.answer is not None)]
    bodies = [each.body for each in ENDPOINTS if each.body is not None]
    models: list[tuple[type[pydantic.BaseModel], Literal["validation", "serialization"]]] = []
    models.extend((model, "validation") for model in bodies)
    models.extend((model, "serialization") for model in dict.fromkeys(answers))
    _, schemas = pydantic.json_schema.models_json_schema(models, ref_template="#/components/schemas/{model}")
    paths: dict[str, Any] = {}
    for each in ENDPOINTS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {"title": "anycast coordinator", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"credential": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(each: Endpoint) -> dict[str, Any]:
    names = [part[1:-1] for part in each.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": WHOLE_NAME}}
        for name in names
    ]
    number = {"type": "integer", "minimum": 0, "maximum": LARGEST_NUMBER}
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": number}
        for name, meaning in each.query
    ]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string", "maxLength": LONGEST_WORDS}}
        for name, meaning in each.words
    ]
    kind = "text/event-stream" if each.name == "watch" else "application/json"
    schema = {} if each.answer is None else {"schema": {"$ref": f"#/components/schemas/{each.answer.__name__}"}}
    refused = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}}
    operation: dict[str, Any] = {
        "operationId": each.name,
        "summary": each.summary,
        "responses": {
            "200": {"description": "done", "content": {kind: schema}},
            **{code: {"description": text, **refused} for code, text in REFUSALS.items()},
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if each.role is not None:
        operation["security"] = [{"credential": []}]
        operation["description"] = f"At least: {each.role}."
    if each.body is not None:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{each.body.__name__}"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation
