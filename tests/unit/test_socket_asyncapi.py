"""The AsyncAPI document: valid references, every method and code in it, and the page is what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from sealwire.services.socket import asyncapi, calls, protocol
from sealwire.services.socket.protocol import Close

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "asyncapi.yaml"


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [ref for item in value.values() for ref in references(item)]
    if isinstance(value, list):
        return [ref for item in value for ref in references(item)]
    return []


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi.document()
    found = references(document)
    assert len(found) > 50
    for ref in found:
        at: Any = document
        for part in ref.removeprefix("#/").split("/"):
            assert part in at, ref
            at = at[part]


def test_every_method_and_close_code_is_described() -> None:
    source = Path(calls.__file__).read_text()
    methods = set(re.findall(r'^            "([\w.]+)": ', source, re.M))
    assert methods == set(asyncapi.RPC)
    closes = {value for value in vars(protocol).values() if isinstance(value, Close)}
    assert closes == set(asyncapi.CLOSES)


def test_the_yaml_says_what_the_document_says() -> None:
    document = asyncapi.document()
    assert yaml.safe_load(asyncapi.as_yaml(document)) == json.loads(json.dumps(document))


def test_the_page_is_up_to_date() -> None:
    assert yaml.safe_load(PAGE.read_text(encoding="utf-8")) == json.loads(json.dumps(asyncapi.document()))
