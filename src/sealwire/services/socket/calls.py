"""The calls a client makes over its socket: the REST operation of the same name, decoded once, answered by its id."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from sealwire.contracts import messages as contract
from sealwire.contracts.messages import Draft, Edit, History, Read
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.socket import (
    CONVERSATION_CHANNEL,
    DeleteCall,
    EditCall,
    HistoryCall,
    PresenceCall,
    Presences,
    Present,
    ReadCall,
    SendCall,
    TypingCall,
    TypingPublished,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.codec import decode_body, encode
from sealwire.kit.operation import Operation, RateClass
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden, Problem, Retry
from sealwire.ports.bus import Bus
from sealwire.services.socket import protocol
from sealwire.services.socket.connection import Connection, Phase
from sealwire.services.socket.ports import Meter, PresenceBoard
from sealwire.services.socket.protocol import Error
from sealwire.services.socket.session import Lane, Session

_LOG = logging.getLogger("sealwire.socket")

TYPING_TOPIC = "socket.typing"
TYPING_EVERY_S = 1.0
MOST_TYPING = 64
LANE_IDLE_S = 60.0
MOST_LANES = 256
INTERNAL = Error(500, "internal")
UNKNOWN_METHOD = Error(404, "method_not_found")
Answer = Callable[[Session, Caller, Any], Awaitable[Any]]


class TypingSaid(msgspec.Struct, frozen=True, kw_only=True):
    """What instances tell each other of typing."""

    tenant_id: str
    conversation_id: str
    user_id: str
    active: bool


class _Method:
    """One method: how its parameters are read, whom it is for, what it does."""

    __slots__ = ("answer", "decoder", "heavy", "needs", "rate")

    def __init__(
        self, takes: type[Any], answer: Answer, *, needs: Permission, rate: RateClass, heavy: bool = False
    ) -> None:
        self.decoder = msgspec.json.Decoder(takes)
        self.answer = answer
        self.needs, self.rate, self.heavy = needs, rate, heavy


def _of(operation: Operation, takes: type[Any], answer: Answer, *, heavy: bool = False) -> _Method:
    assert operation.needs is not None
    return _Method(takes, answer, needs=operation.needs, rate=operation.rate, heavy=heavy)


def error_of(problem: Problem) -> Error:
    """Return a problem as the error of a command: `code` is the HTTP status, `message` our code."""
    return Error(problem.status, problem.code, temporary=problem.retry is not Retry.NEVER)


class Calls:
    """Answers `rpc` commands. Each runs as a task of its own, so that sends overlap and share a commit."""

    def __init__(
        self, *, messaging: Messaging, presence: PresenceBoard, bus: Bus, clock: Clock, meter: Meter | None
    ) -> None:
        self._messaging = messaging
        self._presence = presence
        self._bus = bus
        self._clock = clock
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        read, default = Permission.READ, RateClass.DEFAULT
        self._sending = _of(contract.SEND, SendCall, self._send)
        self._methods = {
            "message.send": self._sending,
            "message.edit": _of(contract.EDIT, EditCall, self._edit),
            "message.delete": _of(contract.DELETE, DeleteCall, self._delete),
            "history": _of(contract.HISTORY, HistoryCall, self._history, heavy=True),
            "read": _of(contract.READ, ReadCall, self._read),
            "typing": _Method(TypingCall, self._typing, needs=read, rate=default),
            "presence": _Method(PresenceCall, self._who, needs=read, rate=default),
        }

    @property
    def in_work(self) -> int:
        """How many tasks run."""
        return len(self._tasks)

    async def stop(self, drain_s: float) -> None:
        """Let what is in work finish for a while, then end it."""
        if self._tasks and drain_s:
            await asyncio.wait(set(self._tasks), timeout=drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def call(self, connection: Connection, id_: int, caller: Caller, command: protocol.Rpc) -> None:
        """Answer a call on the connection, by its id."""
        method = self._methods.get(command.method)
        if method is None:
            connection.fail(id_, UNKNOWN_METHOD)
            return
        session = connection.session
        assert session is not None
        try:
            self.count(caller, method.rate)
            require(caller, method.needs)
            taken = decode_body(method.decoder, bytes(command.data))
        except Problem as problem:
            connection.fail(id_, error_of(problem))
            return
        if method.heavy:
            self.queue(connection, lambda: self._finish(connection, id_, method, session, caller, taken))
        elif method is self._sending:
            self._send_in_order(connection, id_, session, caller, taken)
        else:
            self.spawn(self._finish(connection, id_, method, session, caller, taken))

    def _send_in_order(
        self, connection: Connection, id_: int, session: Session, caller: Caller, call: SendCall
    ) -> None:
        """Begin a send behind those of the same connection into the same conversation (session.Lane says how)."""
        lane = session.lanes.get(call.conversation_id)
        now_s = self._clock.monotonic()
        if lane is not None and not lane.opening and now_s - lane.used_s < LANE_IDLE_S:
            lane.used_s = now_s
            self.spawn(self._finish(connection, id_, self._sending, session, caller, call))
        elif lane is not None and lane.opening:
            lane.waiting.append(lambda: self._send_in_order(connection, id_, session, caller, call))
        else:
            if len(session.lanes) >= MOST_LANES:
                session.lanes = {name: lane for name, lane in session.lanes.items() if lane.opening}
            lane = session.lanes[call.conversation_id] = Lane()
            self.spawn(self._open_lane(connection, id_, session, caller, call, lane))

    async def _open_lane(
        self, connection: Connection, id_: int, session: Session, caller: Caller, call: SendCall, lane: Lane
    ) -> None:
        await self._finish(connection, id_, self._sending, session, caller, call)
        lane.opening, lane.used_s = False, self._clock.monotonic()
        waiting, lane.waiting = lane.waiting, []
        if connection.phase is Phase.OPEN:
            for start in waiting:
                start()

    def count(self, caller: Caller, rate: RateClass) -> None:
        """Count against the person's limit. Raises: RateLimited."""
        if self._meter is not None:
            self._meter.count(caller, rate)

    def spawn(self, work: Any) -> None:
        """Run a coroutine as a task of this instance."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def queue(self, connection: Connection, job: Callable[[], Awaitable[None]]) -> None:
        """Run what may answer with megabytes one at a time per connection, and not while it doesn't read."""
        session = connection.session
        assert session is not None
        session.jobs.append(job)
        if not session.working:
            session.working = True
            self.spawn(self._work(connection, session))

    async def _work(self, connection: Connection, session: Session) -> None:
        try:
            while session.jobs and connection.phase is Phase.OPEN:
                if connection.live:
                    await session.jobs.popleft()()
                else:
                    await asyncio.sleep(0.05)
        finally:
            session.working = False

    async def _finish(
        self, connection: Connection, id_: int, method: _Method, session: Session, caller: Caller, taken: Any
    ) -> None:
        try:
            given = await method.answer(session, caller, taken)
        except Problem as problem:
            connection.fail(id_, error_of(problem))
        except Exception:
            _LOG.exception("a call over a socket failed")
            connection.fail(id_, INTERNAL)
        else:
            connection.answer(id_, b"" if given is None else encode(given))

    # -- the methods

    def _send(self, session: Session, caller: Caller, call: SendCall) -> Awaitable[contract.Message]:
        draft = Draft(
            body=call.body,
            client_message_id=call.client_message_id,
            content_type=call.content_type,
            ciphertexts=call.ciphertexts,
            reply_to=call.reply_to,
            attachments=call.attachments,
            mentions=call.mentions,
            expires_in_s=call.expires_in_s,
        )
        return self._messaging.send(caller, call.conversation_id, draft)

    def _edit(self, session: Session, caller: Caller, call: EditCall) -> Awaitable[contract.Message]:
        return self._messaging.edit(caller, call.conversation_id, call.seq, Edit(body=call.body))

    def _delete(self, session: Session, caller: Caller, call: DeleteCall) -> Awaitable[None]:
        return self._messaging.delete(caller, call.conversation_id, call.seq)

    def _history(self, session: Session, caller: Caller, call: HistoryCall) -> Awaitable[contract.Messages]:
        query = History(after_seq=call.after_seq, before_seq=call.before_seq, limit=call.limit)
        return self._messaging.history(caller, call.conversation_id, query)

    def _read(self, session: Session, caller: Caller, call: ReadCall) -> Awaitable[contract.ReadState]:
        return self._messaging.read(caller, call.conversation_id, Read(seq=call.seq))

    async def _typing(self, session: Session, caller: Caller, call: TypingCall) -> None:
        """Tell the others, at most once a second and conversation; a stop is told at once."""
        now_s, said = self._clock.monotonic(), session.typing_s
        if call.active and now_s < said.get(call.conversation_id, 0.0):
            return
        await self._messaging.membership(caller, call.conversation_id)
        if len(said) >= MOST_TYPING:
            said.clear()
        if call.active:
            said[call.conversation_id] = now_s + TYPING_EVERY_S
        else:
            said.pop(call.conversation_id, None)
        told = TypingSaid(
            tenant_id=caller.tenant_id,
            conversation_id=call.conversation_id,
            user_id=caller.user_id,
            active=call.active,
        )
        self._bus.publish(TYPING_TOPIC, encode(told))

    async def _who(self, session: Session, caller: Caller, call: PresenceCall) -> Presences:
        await self._messaging.membership(caller, call.conversation_id)
        found = await self._presence.who((caller.tenant_id, CONVERSATION_CHANNEL + call.conversation_id))
        counts = Counter(found.values())
        items = [Present(user_id=user_id, connections=count) for user_id, count in sorted(counts.items())]
        return Presences(conversation_id=call.conversation_id, items=items)


_read_typing = msgspec.json.Decoder(TypingSaid).decode


def typing_heard(payload: bytes) -> tuple[tuple[str, str], bytes]:
    """Return the room that hears of it and what it gets."""
    said = _read_typing(payload)
    told = TypingPublished(conversation_id=said.conversation_id, user_id=said.user_id, active=said.active)
    return (said.tenant_id, CONVERSATION_CHANNEL + said.conversation_id), encode(told)


def require(caller: Caller, needs: Permission) -> None:
    """Raises: Forbidden when the caller's role does not grant it."""
    if not caller.principal.may(needs):
        raise Forbidden(f"Your role does not grant {needs.value}.")


__all__ = ["TYPING_TOPIC", "Calls", "error_of", "require", "typing_heard"]
