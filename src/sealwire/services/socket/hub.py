"""Rooms and indexes of one socket instance: who listens where, and one frame written to all of them.

Nothing here blocks or allocates per delivery: a frame is encoded once by the caller, frames of one loop iteration are
joined, and each member's transport gets one write. A member that can't keep up is parked by clearing `live`: it costs
nothing more than its bound, and `missed` remembers that it must recover.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

RoomKey = tuple[str, str]
"""(tenant id, channel name): a channel never reaches across tenants, whatever its name."""

SLICE = 500
"""Deliveries written before other work gets its turn; 500 take about 1.5 ms."""


class Member(Protocol):
    """What a room needs of a connection."""

    live: bool
    missed: bool
    rooms: set[RoomKey]
    write: Callable[[bytes], None]


class HubStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of this instance; `publications` and `deliveries` only grow."""

    connections: int
    users: int
    sessions: int
    rooms: int
    subscriptions: int
    publications: int
    deliveries: int


class Room:
    """The members of one channel and the frames on their way to them."""

    __slots__ = ("_cached", "_members", "_offset", "_pending", "_sealed")

    def __init__(self) -> None:
        self._members: dict[Member, None] = {}
        self._cached: tuple[Member, ...] | None = ()
        self._pending: list[bytes] = []
        self._sealed: deque[tuple[tuple[Member, ...], bytes]] = deque()
        self._offset = 0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    @property
    def members(self) -> tuple[Member, ...]:
        """The members, as a snapshot that stays as it is."""
        if self._cached is None:
            self._cached = tuple(self._members)
        return self._cached

    def add(self, member: Member) -> None:
        """Let the member have what is published from now on, and nothing from before."""
        self._seal()
        self._members[member] = None
        self._cached = None

    def remove(self, member: Member) -> None:
        """Stop delivering to the member; what was published before still reaches the others."""
        self._seal()
        self._members.pop(member, None)
        self._cached = None

    def publish(self, frame: bytes) -> None:
        """Keep a whole frame for everybody who is a member now."""
        self._pending.append(frame)

    def flush(self, budget: int) -> int:
        """Write up to `budget` deliveries in order; return how many were (parked members count). `idle`: all are."""
        self._seal()
        done = 0
        while self._sealed and done < budget:
            members, data = self._sealed[0]
            start = self._offset
            part = members[start : start + budget - done] if start or len(members) > budget - done else members
            for member in part:
                if member.live:
                    member.write(data)
                else:
                    member.missed = True
            done += len(part)
            if start + len(part) >= len(members):
                self._sealed.popleft()
                self._offset = 0
            else:
                self._offset = start + len(part)
        return done

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._sealed and not self._pending

    def _seal(self) -> None:
        """Bind what is pending to the members of this moment, so that who comes later does not get it."""
        if self._pending:
            if self._members:
                data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
                self._sealed.append((self.members, data))
            self._pending.clear()


class Hub:
    """Every room and every connection of this instance. `soon` runs a function later in the same loop iteration."""

    def __init__(self, *, soon: Callable[[Callable[[], None]], Any], slice_size: int = SLICE) -> None:
        self._soon = soon
        self._slice = slice_size
        self._rooms: dict[RoomKey, Room] = {}
        self._dirty: dict[RoomKey, Room] = {}
        self._scheduled = False
        self._users: dict[RoomKey, dict[Member, None]] = {}
        self._sessions: dict[RoomKey, dict[Member, None]] = {}
        self._identity: dict[Member, tuple[RoomKey, RoomKey]] = {}
        self._subscriptions = self._publications = self._deliveries = 0

    def __len__(self) -> int:
        return len(self._identity)

    def register(self, member: Member, *, tenant_id: str, user_id: str, session_id: str) -> None:
        """Index the member by its user and session; again after its session changed."""
        self._forget(member)
        user, session = (tenant_id, user_id), (tenant_id, session_id)
        self._identity[member] = (user, session)
        self._users.setdefault(user, {})[member] = None
        self._sessions.setdefault(session, {})[member] = None

    def unregister(self, member: Member) -> None:
        """Take the member out of every room and index."""
        for key in tuple(member.rooms):
            self.leave(key, member)
        self._forget(member)

    def of_user(self, tenant_id: str, user_id: str) -> tuple[Member, ...]:
        """The user's connections here."""
        return tuple(self._users.get((tenant_id, user_id), ()))

    def join(self, key: RoomKey, member: Member) -> None:
        """Put the member into the room: it gets what is published from now on."""
        if key not in member.rooms:
            member.rooms.add(key)
            self._rooms.setdefault(key, Room()).add(member)
            self._subscriptions += 1

    def leave(self, key: RoomKey, member: Member) -> bool:
        """Take the member out of the room; answer whether it was there."""
        if key not in member.rooms:
            return False
        member.rooms.discard(key)
        room = self._rooms[key]
        room.remove(member)
        self._subscriptions -= 1
        if not room and room.idle:
            del self._rooms[key]
        return True

    def room(self, key: RoomKey) -> tuple[Member, ...]:
        """The members of a room, empty when there is none."""
        room = self._rooms.get(key)
        return room.members if room is not None else ()

    def publish_beside(self, session_id: str, key: RoomKey, frame: bytes) -> int:
        """Write a whole frame to those members at once that are not of this session; return how many they are."""
        own = self._sessions.get((key[0], session_id), ())
        members = [member for member in self.room(key) if member not in own]
        for member in members:
            if member.live:
                member.write(frame)
            else:
                member.missed = True
        if members:
            self._publications += 1
            self._deliveries += len(members)
        return len(members)

    def publish(self, key: RoomKey, frame: bytes) -> bool:
        """Write a whole frame to every member at the end of this loop iteration; answer whether there is one."""
        room = self._rooms.get(key)
        if room is None or not room:
            return False
        room.publish(frame)
        self._publications += 1
        self._dirty[key] = room
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._flush)
        return True

    def stats(self) -> HubStats:
        """Count."""
        return HubStats(
            connections=len(self._identity),
            users=len(self._users),
            sessions=len(self._sessions),
            rooms=len(self._rooms),
            subscriptions=self._subscriptions,
            publications=self._publications,
            deliveries=self._deliveries,
        )

    def _flush(self) -> None:
        budget = self._slice
        while self._dirty and budget > 0:
            key, room = next(iter(self._dirty.items()))
            done = room.flush(budget)
            budget -= done
            self._deliveries += done
            del self._dirty[key]
            if not room.idle:
                self._dirty[key] = room  # behind the others: a large room does not hold up small ones
            elif not room:
                self._rooms.pop(key, None)
        self._scheduled = bool(self._dirty)
        if self._scheduled:
            self._soon(self._flush)

    def _forget(self, member: Member) -> None:
        identity = self._identity.pop(member, None)
        if identity is None:
            return
        for index, key in zip((self._users, self._sessions), identity, strict=True):
            members = index[key]
            members.pop(member, None)
            if not members:
                del index[key]
