"""Structured logs to stderr: one JSON document a line, no personal data, no secrets."""

from __future__ import annotations

import logging
import sys
from typing import Any

from sealwire.kit.clock import rfc3339
from sealwire.kit.codec import encode

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """Writes a record as JSON: time, level, logger, event, what `extra=fields(...)` gave, the cause."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": rfc3339(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return encode(line).decode()


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """Return what to give as `extra` of a log call, so that these stand beside the event."""
    return {FIELDS: values}


def configure_logging(level: str) -> None:
    """Send logs of `level` and above to stderr as JSON, ours and those of libraries alike."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(max(LEVELS[level], logging.ERROR))
