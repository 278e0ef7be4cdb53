"""Logs: one JSON document a line."""

from __future__ import annotations

import json
import logging

import pytest

from sealwire.kit.telemetry import JsonFormatter, fields


def written(*args: object, **kwargs: object) -> dict[str, object]:
    logger = logging.Logger("sealwire.test")
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Keep()
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.error(*args, **kwargs)  # type: ignore[arg-type]  # passed on as given
    assert "\n" not in lines[0]
    return dict(json.loads(lines[0]))


def test_an_event_with_its_fields():
    line = written("snapshot %s\nfailed", "one", extra=fields(tenant_id="acme", seq=3))
    assert line["event"] == "snapshot one\nfailed"
    assert (line["level"], line["logger"], line["tenant_id"], line["seq"]) == ("error", "sealwire.test", "acme", 3)
    assert str(line["time"]).endswith("Z")


def test_a_cause_is_part_of_the_line():
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 // 0
    assert "ZeroDivisionError" in str(written("x", exc_info=caught.value)["exception"])
