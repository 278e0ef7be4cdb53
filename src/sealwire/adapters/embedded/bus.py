"""The bus within one process (ports/bus.py)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sealwire.ports.bus import MAX_PAYLOAD_BYTES, Handler

_LOG = logging.getLogger("sealwire.bus")


class InProcessBus:
    """Calls every handler later in the same loop iteration."""

    def __init__(self) -> None:
        self._handlers: dict[str, dict[Handler, None]] = {}

    def publish(self, topic: str, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload on the bus is at most {MAX_PAYLOAD_BYTES} bytes")
        if topic in self._handlers:
            asyncio.get_running_loop().call_soon(self._deliver, topic, payload)

    def subscribe(self, topic: str, handler: Handler) -> Callable[[], None]:
        self._handlers.setdefault(topic, {})[handler] = None
        return lambda: self._forget(topic, handler)

    def _forget(self, topic: str, handler: Handler) -> None:
        handlers = self._handlers.get(topic)
        if handlers is not None:
            handlers.pop(handler, None)
            if not handlers:
                del self._handlers[topic]

    def _deliver(self, topic: str, payload: bytes) -> None:
        for handler in tuple(self._handlers.get(topic, ())):
            try:
                handler(payload)
            except Exception:
                _LOG.exception("a listener of %s failed", topic)
