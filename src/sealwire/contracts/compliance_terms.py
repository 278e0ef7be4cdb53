"""What the contracts of compliance have in common."""

from __future__ import annotations

from typing import Any, Final

from sealwire.kit.permission import Permission

SERVICE = "compliance"
LOOK: Final[dict[str, Any]] = {"service": SERVICE, "needs": Permission.READ_RETENTION}
RETAIN: Final[dict[str, Any]] = {"service": SERVICE, "needs": Permission.MANAGE_RETENTION}
