"""One client's connection: what may happen in which state. No clock, no loop, no socket of its own.

Frames, answers and the time come in by method calls; bytes go out through a Wire, work through a Desk. Both may answer
at once or later. Nothing is answered before a connect succeeded, and after the end nothing is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, Protocol

import msgspec

from sealwire.services.socket import protocol
from sealwire.services.socket.hub import RoomKey
from sealwire.services.socket.protocol import Close, Command, Error, Subscribed

if TYPE_CHECKING:
    from sealwire.services.socket.session import Session


class Wire(Protocol):
    """What a connection may do to its socket (services/socket/transport.py says how)."""

    def reply(self, text: bytes) -> None: ...
    def flush(self) -> None: ...
    def write(self, frame: bytes) -> None: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def trust(self) -> None: ...
    def close(self, code: int, reason: str) -> None: ...


class Desk(Protocol):
    """Who does what a client asks. Each call is answered on the connection, once, at once or later."""

    def connect(self, connection: Connection, command: protocol.Connect) -> None:
        """Answer with `opened`, `refused` or `close`."""

    def refresh(self, connection: Connection, id_: int, command: protocol.Refresh) -> None:
        """Answer with `refreshed`, `fail` or `close`."""

    def subscribe(self, connection: Connection, id_: int, command: protocol.Subscribe) -> None:
        """Answer with `subscribed` or `not_subscribed`."""

    def unsubscribed(self, connection: Connection, channel: str) -> None:
        """Hear that the client left a channel; no answer."""

    def call(self, connection: Connection, id_: int, command: protocol.Rpc) -> None:
        """Answer with `answer` or `fail`."""

    def look(self, connection: Connection, command: Command) -> None:
        """Answer a history, presence or presence_stats with `answer_with` or `fail`."""

    def expiry(self, connection: Connection) -> float:
        """Return when the connection expires after all (monotonic): asked once more when its time is over."""

    def gone(self, connection: Connection, code: int) -> None:
        """Hear that the connection ended; no answer."""


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and rhythms of one connection (services/socket/config.py says what each means)."""

    authenticate_s: float = 5.0
    ping_s: int = 25
    pong_s: float = 8.0
    in_flight: int = 128
    subscriptions: int = 1_000


class _Nowhere:
    """The wire of a connection that ended: what is said to it is lost."""

    def reply(self, text: bytes) -> None: ...
    def flush(self) -> None: ...
    def write(self, frame: bytes) -> None: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def trust(self) -> None: ...
    def close(self, code: int, reason: str) -> None: ...


_NOWHERE = _Nowhere()
_NO_BACKLOG: deque[Command] = deque(maxlen=0)
"""Stands for the backlog of who never said anything: an empty deque weighs as much as the rest of a connection."""


class Phase(IntEnum):
    """Where a connection stands."""

    NEW = 0
    AUTHENTICATING = 1
    OPEN = 2
    CLOSED = 3


class _Subscription:
    """A channel of this connection: joining until the desk answered."""

    __slots__ = ("joining", "leave_id", "revoked", "server_side")

    def __init__(self, *, server_side: bool) -> None:
        self.joining = not server_side
        self.server_side = server_side
        self.leave_id = 0
        self.revoked = False


class Connection:
    """The state of one client; the transport's Sink and the hub's Member."""

    __slots__ = (
        "_authenticate_by_s",
        "_awaiting",
        "_backlog",
        "_connect_id",
        "_desk",
        "_heard",
        "_holding",
        "_in_flight",
        "_limits",
        "_next_s",
        "_pinged_s",
        "_subscriptions",
        "_wire",
        "_working",
        "expires_s",
        "id",
        "live",
        "missed",
        "phase",
        "rooms",
        "session",
        "slot",
        "write",
    )

    def __init__(
        self,
        *,
        id_: str,
        wire: Wire,
        desk: Desk,
        limits: ConnectionLimits,
        now_s: float,
        write: Callable[[bytes], None],
    ) -> None:
        """`write` is the transport's own, for the fan-out; `now_s` is monotonic time, as in `tick`."""
        self.id = id_
        self.phase = Phase.NEW
        self.expires_s = inf
        self.slot = 0
        self.live = self.missed = False
        self.rooms: set[RoomKey] = set()
        self.session: Session | None = None
        """Who is on it: the desk's business."""
        self.write = write
        self._wire, self._desk, self._limits = wire, desk, limits
        self._backlog = _NO_BACKLOG
        self._subscriptions: dict[str, _Subscription] = {}
        self._connect_id = self._in_flight = 0
        self._authenticate_by_s = now_s + limits.authenticate_s
        self._next_s = self._pinged_s = inf
        self._awaiting = self._heard = self._holding = self._working = False

    # -- the transport's side

    def received(self, payload: bytes) -> None:
        """Take one message of the client: a frame of commands."""
        if self.phase is Phase.CLOSED:
            return
        self._heard = True
        try:
            commands = protocol.decode_commands(payload)
        except protocol.BadFrame:
            self.close(protocol.MALFORMED)
            return
        if self._backlog is _NO_BACKLOG:
            self._backlog = deque()
        self._backlog.extend(commands)
        self._work()

    def stalled(self) -> None:
        """The client does not read: leave the fan-out until it does."""
        self.live = self.missed = False

    def drained(self) -> bool:
        """The client reads again; answer whether it missed nothing."""
        self.live = self.phase is Phase.OPEN
        self._heard = True  # nothing was read meanwhile, a pong neither
        return not self.missed

    def lost(self, code: int) -> None:
        """The socket is gone or going."""
        if self.phase is not Phase.CLOSED:
            self._finish(code)

    def tick(self, now_s: float) -> float:
        """Do what is due; return when to be called again at the latest (infinity: never)."""
        if self.phase is Phase.CLOSED:
            return inf
        if self.phase is not Phase.OPEN:
            if now_s < self._authenticate_by_s:
                return self._authenticate_by_s
            self.close(protocol.UNAUTHENTICATED if self.phase is Phase.NEW else protocol.SERVER_ERROR)
            return inf
        if now_s >= self.expires_s:
            self.expires_s = self._desk.expiry(self)
            if now_s >= self.expires_s:
                self.close(protocol.EXPIRED)
                return inf
        if now_s >= self._next_s:
            if not self._awaiting:
                self._heard = False
                self._awaiting = True
                self._pinged_s, self._next_s = now_s, now_s + self._limits.pong_s
                self._wire.write(protocol.PING_FRAME)
            elif self._heard or self._holding or not self.live:
                self._awaiting = False
                self._next_s = self._pinged_s + self._limits.ping_s
            else:
                self.close(protocol.NO_PONG)
                return inf
        return min(self._next_s, self.expires_s)

    @property
    def due_s(self) -> float:
        """When `tick` has something to do, in monotonic time."""
        return min(self._next_s, self.expires_s) if self.phase is Phase.OPEN else self._authenticate_by_s

    # -- the desk's side

    def opened(
        self, *, now_s: float, version: str, node: str, ttl_s: int, expires_s: float, subs: Mapping[str, Subscribed]
    ) -> bool:
        """The connect succeeded: answer it; False when the connection ended meanwhile.

        `ttl_s` is when the client should refresh (0: never), `expires_s` when it is closed, in monotonic time.
        """
        if self.phase is not Phase.AUTHENTICATING:
            return False
        self.phase, self.live = Phase.OPEN, True
        self.expires_s = expires_s
        self._next_s = now_s + self._limits.ping_s
        for channel in subs:
            self._subscriptions[channel] = _Subscription(server_side=True)
        connected = protocol.Connected(
            client=self.id, version=version, node=node, ping_s=self._limits.ping_s, ttl_s=ttl_s, subs=subs
        )
        self._wire.trust()
        self._wire.reply(protocol.encode_connect(self._connect_id, connected))
        self._wire.flush()
        return True

    def proceed(self) -> None:
        """Go on with the commands that wait: after `opened` and `subscribed`, when the channels are joined."""
        self._work()

    def refused(self, error: Error) -> None:
        """The connect failed in a way that another one may not (an expired token): answer it and wait for that."""
        if self.phase is Phase.AUTHENTICATING:
            self.phase = Phase.NEW
            self._backlog.clear()
            self._wire.reply(protocol.encode_error(self._connect_id, error))
            self._work()

    def refreshed(self, id_: int, *, version: str, ttl_s: int, expires_s: float) -> None:
        """The refresh succeeded."""
        if self.phase is Phase.OPEN:
            self.expires_s = expires_s
            self.answer_with(protocol.encode_refresh(id_, client=self.id, version=version, ttl_s=ttl_s))

    def subscribed(self, id_: int, channel: str, result: Subscribed) -> bool:
        """Answer a subscribe; True when the channel's publications may follow. Then join it and call `proceed`."""
        subscription = self._subscriptions.get(channel)
        if self.phase is not Phase.OPEN or subscription is None:
            return False
        if subscription.revoked:
            self.not_subscribed(id_, channel, protocol.PERMISSION_DENIED)
            return False
        subscription.joining = False
        leave_id = subscription.leave_id
        if leave_id:
            del self._subscriptions[channel]
        self._in_flight -= 1
        self._wire.reply(protocol.encode_subscribe(id_, result))
        if leave_id:
            self._wire.reply(protocol.encode_empty(leave_id, b"unsubscribe"))
        self._wire.flush()
        return not leave_id

    def not_subscribed(self, id_: int, channel: str, error: Error) -> None:
        """Answer a subscribe that failed."""
        subscription = self._subscriptions.pop(channel, None)
        if self.phase is Phase.OPEN and subscription is not None:
            self._wire.reply(protocol.encode_error(id_, error))
            if subscription.leave_id:
                self._wire.reply(protocol.encode_empty(subscription.leave_id, b"unsubscribe"))
            self._in_flight -= 1
            self._work()

    def revoke(self, channel: str, code: int, reason: str) -> None:
        """End a subscription from the server's side and tell the client (2000: for good, 2500: subscribe again)."""
        subscription = self._subscriptions.get(channel)
        if subscription is None:
            return
        if subscription.joining:
            subscription.revoked = True
            return
        del self._subscriptions[channel]
        self._desk.unsubscribed(self, channel)
        self._wire.reply(protocol.encode_unsubscribe_push(channel, code, reason))

    def answer(self, id_: int, data: bytes) -> None:
        """Answer a call with its result as JSON."""
        self.answer_with(protocol.encode_rpc(id_, data))

    def answer_with(self, reply: bytes) -> None:
        """Answer a command with an encoded reply."""
        if self.phase is Phase.OPEN:
            self._in_flight -= 1
            self._wire.reply(reply)
            if self._backlog:
                self._work()

    def fail(self, id_: int, error: Error) -> None:
        """Answer a command that failed."""
        self.answer_with(protocol.encode_error(id_, error))

    def close(self, close: Close) -> None:
        """End the connection, with the code that tells the client why and whether to come back."""
        if self.phase is not Phase.CLOSED:
            wire = self._wire
            self._finish(close.code)
            wire.close(close.code, close.reason)

    def listens(self, channel: str) -> bool:
        """Whether the client is subscribed to the channel, or about to be."""
        return channel in self._subscriptions

    # -- inside

    def _finish(self, code: int) -> None:
        self.phase = Phase.CLOSED
        self.live = False
        self._backlog.clear()
        self._subscriptions.clear()
        self._wire, self.write = _NOWHERE, _NOWHERE.write  # who still knows the connection keeps no socket alive
        self._desk.gone(self, code)

    def _work(self) -> None:
        """Handle commands in order, as many as may be in flight; stop reading while some have to wait."""
        if self._working:
            return
        self._working = True
        backlog, limit = self._backlog, self._limits.in_flight
        try:
            while backlog and self._in_flight < limit and self.phase in (Phase.NEW, Phase.OPEN):
                command = backlog.popleft()
                if command.rpc is not None and command.id and self.phase is Phase.OPEN:
                    self._in_flight += 1
                    self._desk.call(self, command.id, command.rpc)
                else:
                    self._handle(command)
        finally:
            self._working = False
        if self.phase is Phase.CLOSED:
            return
        waiting = bool(backlog) or self.phase is Phase.AUTHENTICATING
        if waiting != self._holding:
            self._holding = waiting
            if waiting:
                self._wire.hold()
            else:
                self._wire.release()

    def _handle(self, command: Command) -> None:
        if self.phase is Phase.NEW:
            self._authenticate(command)
        elif command == protocol.PONG:
            return
        elif command.send is not None:
            self.close(protocol.NO_SUCH_FEATURE)
        elif not command.id or command.connect is not None:
            self.close(protocol.MALFORMED)
        elif command.unsubscribe is not None:
            self._unsubscribe(command.id, command.unsubscribe.channel)
        elif command.ping is not None:
            self._wire.reply(protocol.encode_empty(command.id, b"ping"))
        else:
            self._in_flight += 1
            self._dispatch(command)

    def _authenticate(self, command: Command) -> None:
        if command.connect is None:
            self.close(protocol.UNAUTHENTICATED)
        elif not command.id:
            self.close(protocol.MALFORMED)
        else:
            self.phase, self._connect_id = Phase.AUTHENTICATING, command.id
            self._desk.connect(self, command.connect)

    def _dispatch(self, command: Command) -> None:
        """Give a command to the desk; exactly one answer takes it out of flight again."""
        if command.subscribe is not None:
            self._subscribe(command.id, command.subscribe)
        elif command.history is not None or command.presence is not None or command.presence_stats is not None:
            self._desk.look(self, command)
        elif command.refresh is not None:
            self._desk.refresh(self, command.id, command.refresh)
        elif command.publish is not None:
            self.fail(command.id, protocol.PERMISSION_DENIED)  # clients send by rpc, which stores first
        elif command.sub_refresh is not None:
            self.fail(command.id, protocol.NOT_AVAILABLE)  # subscriptions don't expire: membership is watched
        else:  # an id and nothing we know: a command newer than us
            self.fail(command.id, protocol.METHOD_NOT_FOUND)

    def _subscribe(self, id_: int, command: protocol.Subscribe) -> None:
        if command.channel in self._subscriptions:
            self.fail(id_, protocol.ALREADY_SUBSCRIBED)
        elif len(self._subscriptions) >= self._limits.subscriptions:
            self.fail(id_, protocol.LIMIT_EXCEEDED)
        else:
            self._subscriptions[command.channel] = _Subscription(server_side=False)
            self._desk.subscribe(self, id_, command)

    def _unsubscribe(self, id_: int, channel: str) -> None:
        subscription = self._subscriptions.get(channel)
        if subscription is not None and subscription.joining and not subscription.leave_id:
            subscription.leave_id = id_  # answered after the subscribe it takes back
            return
        if subscription is not None and subscription.server_side:
            self._wire.reply(protocol.encode_error(id_, protocol.PERMISSION_DENIED))
            return
        if subscription is not None and not subscription.joining:
            del self._subscriptions[channel]
            self._desk.unsubscribed(self, channel)
        self._wire.reply(protocol.encode_empty(id_, b"unsubscribe"))
