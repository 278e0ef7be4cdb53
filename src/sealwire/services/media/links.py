"""Links: a sealed statement that whoever holds it may fetch one file, until then, while its maker's session lives."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.contracts.media import MediaNotFound
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.envelopes import EnvelopeRefused, bind
from sealwire.services.media.access import Access
from sealwire.services.media.ports import DataKeys

_SCOPE: Final = "links"
_MAX_CHARS: Final = 4_096


class Grant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a link says."""

    media_id: str
    principal: Principal
    until_us: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Grant).decode


class Links:
    """Makes and reads links. Nothing is stored: the link holds it all, sealed under a key of the tenant."""

    def __init__(self, *, keys: DataKeys, access: Access, clock: Clock) -> None:
        self._keys = keys
        self._access = access
        self._clock = clock

    async def make(self, caller: Caller, media_id: str, expires_in_s: int) -> tuple[str, int]:
        """Return the link's token and when it ends, in microseconds."""
        until_us = self._clock.now_us() + expires_in_s * US_PER_S
        principal = msgspec.structs.replace(caller.principal, email="")
        grant = _encode(Grant(media_id=media_id, principal=principal, until_us=until_us))
        tenant_id = caller.tenant_id
        sealed = await self._keys.seal(tenant_id, _SCOPE, "", grant, bind(tenant_id, "link"))
        return f"{_text(tenant_id.encode())}.{_text(sealed)}", until_us

    async def read(self, token: str, media_id: str) -> Caller:
        """Return the caller on whose behalf a link speaks, whose session holds.

        Raises: MediaNotFound for a link that isn't one, is of another file, or is over; SessionRevoked; Unavailable.
        """
        try:
            if len(token) > _MAX_CHARS:
                raise MediaNotFound
            tenant, _, text = token.partition(".")
            tenant_id, sealed = _bytes(tenant).decode(), _bytes(text)
            plain = await self._keys.open(tenant_id, _SCOPE, "", sealed, bind(tenant_id, "link"))
            grant = _decode(plain)
        except (ValueError, EnvelopeRefused, DecryptionFailed, KeyUnusable, msgspec.MsgspecError):
            raise MediaNotFound("The link is not valid.") from None
        if grant.media_id != media_id or grant.until_us <= self._clock.now_us():
            raise MediaNotFound("The link is not valid.")
        caller = Caller(principal=grant.principal)
        await self._access.require_session(caller)
        return caller


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
