"""Who may touch a file: its uploader, and the members of its conversation as long as they are."""

from __future__ import annotations

import msgspec

from sealwire.contracts.admission import SessionRevoked
from sealwire.contracts.auth import Auth
from sealwire.contracts.media import SERVICE, MediaNotFound
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.contracts.sessions import SessionNotFound, SessionQuery
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden
from sealwire.services.media.ports import StoredFile
from sealwire.services.media.transfers import Transfer


class Access:
    """Asks messaging about membership and auth about sessions."""

    def __init__(self, *, auth: Auth, messaging: Messaging) -> None:
        self._auth = auth
        self._messaging = messaging

    async def require_read(self, caller: Caller, file: StoredFile) -> None:
        """Raises: MediaNotFound unless the caller may read the file now."""
        if file.tenant_id != caller.tenant_id:
            raise MediaNotFound
        if caller.is_service:
            return
        if file.conversation_id is None:
            if file.owner_id != caller.user_id:
                raise MediaNotFound
            return
        await self.require_member(caller, file.conversation_id)

    async def require_member(self, caller: Caller, conversation_id: str) -> None:
        """Raises: MediaNotFound unless the caller is in the conversation now."""
        asking = msgspec.structs.replace(caller, service=SERVICE)
        try:
            await self._messaging.membership(asking, conversation_id)
        except ConversationNotFound:
            raise MediaNotFound("There is no such file or conversation.") from None

    async def require_session(self, caller: Caller) -> None:
        """Raises: SessionRevoked once the caller's session or security epoch is over; Unavailable."""
        principal = caller.principal
        if principal.kind not in ("user", "api_key") or not principal.session_id:
            return
        try:
            state = await self._auth.session(
                service_caller(SERVICE, principal.tenant_id), SessionQuery(session_id=principal.session_id)
            )
        except SessionNotFound:
            raise SessionRevoked from None
        if not state.active or state.epoch > principal.epoch or state.user_id != principal.subject:
            raise SessionRevoked

    async def still(self, transfer: Transfer) -> None:
        """Raises: what ends a transfer under way."""
        await self.require_session(transfer.caller)
        if transfer.conversation_id is not None and not transfer.caller.is_service:
            await self.require_member(transfer.caller, transfer.conversation_id)


def require(caller: Caller, permission: Permission) -> None:
    """Check once more what the edge has checked: a call in this process came past no edge. Raises: Forbidden."""
    if not caller.may(permission):
        raise Forbidden(f"Your role does not grant {permission.value}.")
