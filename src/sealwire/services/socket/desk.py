"""Who does what clients ask: lets them in, subscribes them, answers them, and takes them out again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from sealwire.contracts.admission import Admission, ConnectionLimit, CredentialExpired, SessionRevoked, SocketGateway
from sealwire.contracts.audit_log import Actor, AuditEntry, Outcome
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import Publication, ReadableQuery, StreamPage, StreamQuery
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.contracts.socket import CONVERSATION_CHANNEL, USER_CHANNEL
from sealwire.kit.caller import ANONYMOUS_TENANT, Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.ids import new_id
from sealwire.kit.operation import RateClass
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden, Problem, Unauthenticated
from sealwire.services.socket import protocol, streams
from sealwire.services.socket.audience import Audience
from sealwire.services.socket.calls import Calls, error_of, require
from sealwire.services.socket.config import SocketConfig
from sealwire.services.socket.connection import Connection, Phase
from sealwire.services.socket.feed import Feed
from sealwire.services.socket.hub import Hub, RoomKey
from sealwire.services.socket.ports import PresenceBoard, Records
from sealwire.services.socket.protocol import Close, Command, Position, Subscribed
from sealwire.services.socket.session import Session
from sealwire.services.socket.streams import Gap, Joiner, Streams

_LOG = logging.getLogger("sealwire.socket")

MOST_TRIES = 3
RECOVER_PAGE = 500


def close_of(problem: Problem) -> Close:
    """Return how a connection ends for a problem with its credential or session. The text tells nothing."""
    if isinstance(problem, CredentialExpired):
        return protocol.EXPIRED
    if isinstance(problem, SessionRevoked):
        return protocol.SESSION_REVOKED
    if isinstance(problem, Unauthenticated):
        return protocol.UNAUTHENTICATED
    if isinstance(problem, Forbidden):
        return protocol.FORBIDDEN
    if isinstance(problem, ConnectionLimit):
        return protocol.CONNECTION_LIMIT
    return protocol.DEGRADED


class FrontDesk:
    """The `Desk` of every connection of an instance."""

    def __init__(
        self,
        *,
        instance: str,
        version: str,
        gateway: SocketGateway,
        messaging: Messaging,
        hub: Hub,
        streams: Streams,
        audience: Audience,
        feed: Feed,
        calls: Calls,
        presence: PresenceBoard,
        clock: Clock,
        config: SocketConfig,
        records: Records | None,
        watch: Callable[[Connection], None],
        ended: Callable[[Connection, int], None],
    ) -> None:
        """`watch` hears of each connection whose time changed, `ended` of each that is gone, with its close code."""
        self._instance, self._version = instance, version
        self._gateway = gateway
        self._messaging = messaging
        self._hub, self._streams, self._audience = hub, streams, audience
        self._feed = feed
        self._calls = calls
        self._presence = presence
        self._clock = clock
        self._config = config
        self._records = records
        self._watch = watch
        self._ended = ended

    # -- in and out

    def connect(self, connection: Connection, command: protocol.Connect) -> None:
        assert connection.session is not None
        self._calls.spawn(self._admit(connection, connection.session, command))

    async def _admit(self, connection: Connection, session: Session, command: protocol.Connect) -> None:
        try:
            admission = await self._gateway.admit(
                session.handshake, command.token, ended=partial(self._end, connection)
            )
        except Problem as problem:
            self._record("socket.refuse", session, outcome="denied", reason=problem.code)
            if isinstance(problem, CredentialExpired):
                connection.refused(protocol.TOKEN_EXPIRED)
            else:
                connection.close(close_of(problem))
        except Exception:
            _LOG.exception("a socket could not be authenticated")
            connection.close(protocol.SERVER_ERROR)
        else:
            session.admission = admission
            caller = self._caller(connection)
            if caller is not None and connection.phase is Phase.AUTHENTICATING:
                self._open(connection, session, caller)
            else:  # gone or revoked meanwhile
                self._gateway.release(admission)

    def _open(self, connection: Connection, session: Session, caller: Caller) -> None:
        principal = caller.principal
        session.kind = principal.kind
        session.jobs = deque()
        session.handshake = replace(session.handshake, token="")  # a secret nobody needs any more
        session.tenant_id, session.user_id, session.session_id = (
            principal.tenant_id,
            principal.subject,
            principal.session_id,
        )
        own = USER_CHANNEL + session.user_id
        self._hub.register(
            connection, tenant_id=session.tenant_id, user_id=session.user_id, session_id=session.session_id
        )
        self._feed.wake()
        connection.opened(
            now_s=self._clock.monotonic(),
            version=self._version,
            node=self._instance,
            ttl_s=self._ttl_s(session.admitted),
            expires_s=self.expiry(connection),
            subs={own: Subscribed()},
        )
        self._watch(connection)
        self._hub.join((session.tenant_id, own), connection)
        self._record("socket.connect", session, client_id=connection.id)
        if self._audience.arrive(session.tenant_id, session.user_id):
            self._calls.spawn(self._learn(session, caller))
        connection.proceed()

    async def _learn(self, session: Session, caller: Caller) -> None:
        """Look up which conversations the person is in, for the channel of their own."""
        found: list[str] = []
        try:
            await self._feed.following()
            if self._config.unread_conversations:
                found = (await self._messaging.readable(caller, ReadableQuery())).conversation_ids
        except Problem as problem:
            _LOG.warning("unread messages will not be told to a user: %s", problem.code)
        self._audience.learn(session.tenant_id, session.user_id, found)

    def refresh(self, connection: Connection, id_: int, command: protocol.Refresh) -> None:
        session = connection.session
        assert session is not None
        caller = self._caller(connection)
        if caller is None:
            return
        try:
            self._calls.count(caller, RateClass.DEFAULT)  # to verify a token costs as much as most calls
        except Problem as problem:
            connection.fail(id_, error_of(problem))
            return
        self._calls.spawn(self._renew(connection, session, id_, command.token))

    async def _renew(self, connection: Connection, session: Session, id_: int, token: str) -> None:
        try:
            await self._gateway.renew(session.admitted, token)
        except CredentialExpired:
            connection.fail(id_, protocol.TOKEN_EXPIRED_RETRY)
        except Unauthenticated as problem:
            connection.close(close_of(problem))
        except Problem as problem:
            connection.fail(id_, error_of(problem))
        except Exception:
            _LOG.exception("a token could not be renewed on a socket")
            connection.fail(id_, protocol.INTERNAL)
        else:
            connection.refreshed(
                id_, version=self._version, ttl_s=self._ttl_s(session.admitted), expires_s=self.expiry(connection)
            )
            self._watch(connection)

    def expiry(self, connection: Connection) -> float:
        session = connection.session
        return 0.0 if session is None or session.admission is None else session.admission.until_s

    def _ttl_s(self, admission: Admission) -> int:
        """When the client is told to refresh: early enough to be done before the token ends."""
        left_s = admission.expires_at_s - self._clock.now_us() / US_PER_S
        return max(1, int(left_s - min(self._config.refresh_lead_s, left_s / 3)))

    def gone(self, connection: Connection, code: int) -> None:
        session = connection.session
        if session is not None and session.admission is not None:
            self._gateway.release(session.admission)
        if session is not None and session.handshake.seat is not None:
            session.handshake.seat.leave()
        if session is not None and session.user_id:
            for key in tuple(connection.rooms):
                self._leave(connection, session, key)
            self._hub.unregister(connection)
            self._audience.depart(session.tenant_id, session.user_id)
            session.jobs.clear()
            if code in (protocol.SESSION_REVOKED.code, protocol.DEGRADED.code, protocol.EXPIRED.code):
                self._record("socket.close", session, client_id=connection.id, close_code=code)
        connection.session = None
        self._ended(connection, code)

    def _end(self, connection: Connection, problem: Problem) -> None:
        """Close a connection whose session the boundary ended."""
        connection.close(close_of(problem))

    def _caller(self, connection: Connection) -> Caller | None:
        """Return who asks now; None when that ended the connection."""
        session = connection.session
        try:
            return session.admitted.caller if session is not None else None
        except Problem as problem:
            connection.close(close_of(problem))
            return None

    # -- what is asked

    def call(self, connection: Connection, id_: int, command: protocol.Rpc) -> None:
        caller = self._caller(connection)
        if caller is not None:
            self._calls.call(connection, id_, caller, command)

    def subscribe(self, connection: Connection, id_: int, command: protocol.Subscribe) -> None:
        caller = self._caller(connection)
        if caller is None:
            return
        channel = command.channel
        if not channel.startswith(CONVERSATION_CHANNEL) or len(channel) > 64 + len(CONVERSATION_CHANNEL):
            known = channel.startswith(USER_CHANNEL)
            connection.not_subscribed(id_, channel, protocol.PERMISSION_DENIED if known else protocol.UNKNOWN_CHANNEL)
            return
        try:
            self._calls.count(caller, RateClass.DEFAULT)
            require(caller, Permission.READ)
        except Problem as problem:
            connection.not_subscribed(id_, channel, error_of(problem))
            return
        if command.recover:
            self._calls.queue(connection, lambda: self._subscribe(connection, id_, caller, command))
        else:
            self._calls.spawn(self._subscribe(connection, id_, caller, command))

    async def _subscribe(self, connection: Connection, id_: int, caller: Caller, command: protocol.Subscribe) -> None:
        key = (caller.tenant_id, command.channel)
        for _ in range(MOST_TRIES):
            joiner = self._streams.begin(key)
            try:
                result = await self._look_up(caller, joiner, command)
                self._join(connection, id_, key, joiner, command, result)
            except Gap:
                continue
            except ConversationNotFound:
                connection.not_subscribed(id_, command.channel, protocol.PERMISSION_DENIED)
            except Problem as problem:
                connection.not_subscribed(id_, command.channel, error_of(problem))
            except Exception:
                _LOG.exception("a subscription failed")
                connection.not_subscribed(id_, command.channel, protocol.INTERNAL)
            finally:
                self._streams.end(key, joiner)
            connection.proceed()
            return
        connection.not_subscribed(id_, command.channel, protocol.TOO_MANY_REQUESTS)

    async def _look_up(self, caller: Caller, joiner: Joiner, command: protocol.Subscribe) -> Subscribed:
        """Read where the stream stands or what was missed. Raises: ConversationNotFound, Unavailable, Gap."""
        conversation_id = command.channel.removeprefix(CONVERSATION_CHANNEL)
        await self._feed.following()
        if not command.recover:
            seat = await self._messaging.membership(caller, conversation_id)
            return streams.from_now(joiner, top=seat.top_offset, epoch=seat.epoch)
        page = await self._missed(caller, conversation_id, command.offset)
        return streams.from_position(
            joiner,
            page,
            Position(command.offset, command.epoch),
            most=self._config.recover_events,
            most_bytes=self._config.recover_bytes,
        )

    async def _missed(self, caller: Caller, conversation_id: str, offset: int) -> StreamPage:
        """Read what came after an offset; no more of it than may be recovered."""
        most, most_bytes = self._config.recover_events, self._config.recover_bytes
        items: list[Publication] = []
        size = 0
        while True:
            query = StreamQuery(after_offset=offset, limit=min(RECOVER_PAGE, most + 1))
            page = await self._messaging.stream(caller, conversation_id, query)
            items += page.items
            size += sum(len(memoryview(item.data)) for item in page.items)
            if not page.items or page.items[-1].offset >= page.top_offset or len(items) > most or size > most_bytes:
                return StreamPage(items=items, top_offset=page.top_offset, epoch=page.epoch)
            offset = page.items[-1].offset

    def _join(
        self,
        connection: Connection,
        id_: int,
        key: RoomKey,
        joiner: Joiner,
        command: protocol.Subscribe,
        result: Subscribed,
    ) -> None:
        """Answer and enter the room, with nothing in between."""
        if result.was_recovering and not result.recovered and command.flag & protocol.FLAG_REJECT_UNRECOVERED:
            connection.not_subscribed(id_, command.channel, protocol.UNRECOVERABLE_POSITION)
            return
        if connection.subscribed(id_, command.channel, result):
            session = connection.session
            assert session is not None
            self._streams.enter(key, joiner, connection, result.offset + len(result.publications))
            self._presence.enter(key, connection.id, session.user_id)
            self._listens(session, key, on=True)

    def unsubscribed(self, connection: Connection, channel: str) -> None:
        session = connection.session
        if session is not None:
            self._leave(connection, session, (session.tenant_id, channel))

    def _leave(self, connection: Connection, session: Session, key: RoomKey) -> None:
        if key[1].startswith(CONVERSATION_CHANNEL):
            if self._streams.leave(key, connection):
                self._presence.leave(key, connection.id)
                self._listens(session, key, on=False)
        else:
            self._hub.leave(key, connection)

    def _listens(self, session: Session, key: RoomKey, *, on: bool) -> None:
        conversation_id = key[1].removeprefix(CONVERSATION_CHANNEL)
        self._audience.listen(session.tenant_id, session.user_id, conversation_id, on=on)

    def look(self, connection: Connection, command: Command) -> None:
        caller = self._caller(connection)
        if caller is None:
            return
        asked = command.history or command.presence or command.presence_stats
        assert asked is not None
        key = (caller.tenant_id, asked.channel)
        if not asked.channel.startswith(CONVERSATION_CHANNEL) or key not in connection.rooms:
            connection.fail(command.id, protocol.PERMISSION_DENIED)
            return
        try:
            self._calls.count(caller, RateClass.DEFAULT)
        except Problem as problem:
            connection.fail(command.id, error_of(problem))
            return
        self._calls.queue(connection, lambda: self._look(connection, command, caller, key))

    async def _look(self, connection: Connection, command: Command, caller: Caller, key: RoomKey) -> None:
        try:
            if command.history is not None:
                reply = await self._history(command.id, caller, command.history)
            else:
                found = await self._presence.who(key)
                if command.presence is not None:
                    reply = protocol.encode_presence(command.id, found)
                else:
                    reply = protocol.encode_presence_stats(
                        command.id, clients=len(found), users=len(set(found.values()))
                    )
        except Problem as problem:
            connection.fail(command.id, error_of(problem))
        except Exception:
            _LOG.exception("a look at a channel failed")
            connection.fail(command.id, protocol.INTERNAL)
        else:
            connection.answer_with(reply)

    async def _history(self, id_: int, caller: Caller, asked: protocol.History) -> bytes:
        """Answer a page of the stream; only forwards, as it is stored."""
        if asked.reverse:
            return protocol.encode_error(id_, protocol.BAD_REQUEST)
        conversation_id = asked.channel.removeprefix(CONVERSATION_CHANNEL)
        if asked.limit == 0:
            seat = await self._messaging.membership(caller, conversation_id)
            return protocol.encode_history(id_, offset=seat.top_offset, epoch=seat.epoch, publications=())
        since = asked.since or Position()
        limit = RECOVER_PAGE if asked.limit < 0 else min(asked.limit, RECOVER_PAGE)
        page = await self._messaging.stream(
            caller, conversation_id, StreamQuery(after_offset=since.offset, limit=limit)
        )
        if since.epoch not in ("", page.epoch):
            return protocol.encode_error(id_, protocol.UNRECOVERABLE_POSITION)
        publications = [protocol.encode_publication(bytes(item.data), item.offset) for item in page.items]
        return protocol.encode_history(id_, offset=page.top_offset, epoch=page.epoch, publications=publications)

    # -- records

    def _record(self, action: str, session: Session, *, outcome: Outcome = "success", **metadata: str | int) -> None:
        """Put an audit record of a connection's life; addresses are personal data."""
        if self._records is None:
            return
        known = bool(session.user_id)
        seen = {"ip_address": session.handshake.ip, "user_agent": session.handshake.user_agent}
        self._records.put(
            AuditEntry(
                audit_id=new_id(),
                tenant_id=session.tenant_id if known else ANONYMOUS_TENANT,
                actor=Actor(type=session.kind, id=session.actor_id),
                action=action,
                resource_type="socket",
                resource_id=self._instance,
                outcome=outcome,
                metadata={**metadata, "session_id": session.session_id},
                personal={name: text for name, text in seen.items() if text},
                subject_id=session.user_id,
                created_at_us=self._clock.now_us(),
            )
        )


__all__ = ["FrontDesk", "close_of"]
