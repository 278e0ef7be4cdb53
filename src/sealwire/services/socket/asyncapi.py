"""The AsyncAPI 3.0 document of `/ws`, derived from the structs that read and write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from sealwire import __version__
from sealwire.contracts import messages, publications
from sealwire.contracts import socket as calls
from sealwire.services.socket import protocol

REF = "#/components/schemas/{name}"
RPC: dict[str, tuple[type[Any], type[Any] | None, str]] = {
    "message.send": (calls.SendCall, messages.Message, "Send a message"),
    "message.edit": (calls.EditCall, messages.Message, "Edit a message"),
    "message.delete": (calls.DeleteCall, None, "Delete a message; a tombstone stays"),
    "history": (calls.HistoryCall, messages.Messages, "Page through the messages of a conversation"),
    "read": (calls.ReadCall, messages.ReadState, "Say up to where it was read"),
    "typing": (calls.TypingCall, None, "Say that somebody types, again every few seconds"),
    "presence": (calls.PresenceCall, calls.Presences, "Who listens to a conversation now"),
}
COMMANDS: dict[str, tuple[type[Any], str]] = {
    "connect": (protocol.Connect, "Authenticate; the first command, unless the handshake brought the token"),
    "refresh": (protocol.Refresh, "A fresh token for the live connection"),
    "subscribe": (protocol.Subscribe, "Listen to a channel, from now or from a position"),
    "unsubscribe": (protocol.Unsubscribe, "Stop listening"),
    "history": (protocol.History, "A page of a channel's stream"),
    "presence": (protocol.ChannelOnly, "Clients that listen to a channel"),
    "presence_stats": (protocol.ChannelOnly, "How many clients and users listen to a channel"),
    "rpc": (protocol.Rpc, "Call a method"),
}
IN_CONVERSATION: dict[str, type[Any]] = {
    "message.created, message.edited": publications.MessagePublished,
    "message.deleted": publications.MessageDeleted,
    "messages.purged": publications.MessagesPurged,
    "reaction.added, reaction.removed": publications.ReactionPublished,
    "member.joined, member.left, member.changed": publications.MemberPublished,
    "conversation.created, conversation.changed, conversation.removed": publications.ConversationPublished,
    "receipt.read": publications.ReceiptPublished,
    "typing": calls.TypingPublished,
}
OF_USER: dict[str, type[Any]] = {
    "member.joined, member.left, member.changed": publications.MemberPublished,
    "conversation.removed": publications.ConversationPublished,
    "unread": calls.UnreadPublished,
    "mention": calls.MentionPublished,
    "session.ended, sessions.ended, role.changed, session.opened": calls.SessionPublished,
}
CLOSES = (
    protocol.SHUTDOWN,
    protocol.SERVER_ERROR,
    protocol.EXPIRED,
    protocol.SLOW,
    protocol.INSUFFICIENT_STATE,
    protocol.NO_PONG,
    protocol.MALFORMED,
    protocol.CONNECTION_LIMIT,
    protocol.NO_SUCH_FEATURE,
    protocol.DEGRADED,
    protocol.UNAUTHENTICATED,
    protocol.SESSION_REVOKED,
    protocol.FORBIDDEN,
)
ERRORS = (
    protocol.INTERNAL,
    protocol.UNKNOWN_CHANNEL,
    protocol.PERMISSION_DENIED,
    protocol.METHOD_NOT_FOUND,
    protocol.ALREADY_SUBSCRIBED,
    protocol.LIMIT_EXCEEDED,
    protocol.BAD_REQUEST,
    protocol.NOT_AVAILABLE,
    protocol.TOKEN_EXPIRED,
    protocol.TOO_MANY_REQUESTS,
    protocol.UNRECOVERABLE_POSITION,
)
ABOUT = """\
The Centrifugo client protocol, JSON v2: `centrifuge` clients work unchanged. A frame holds one JSON document a line.
A command is `{"id": n, "<kind>": {...}}`; its answer is `{"id": n, "<kind>": {...}}` or `{"id": n, "error": {...}}`;
pushes are `{"push": {"channel": ..., "pub": {"data": ..., "offset": ...}}}`; `{}` is a ping and is answered by `{}`.
Nothing is answered before a successful `connect`. A failed `rpc` has the HTTP status as `code` and our problem's code
as `message`. Durable events have a gapless `offset` per conversation: subscribe with `recover`, `offset` and `epoch`
to get exactly what was missed. Calls of one frame are worked on together; sends into one conversation keep their order.
"""


def document() -> dict[str, Any]:
    """Return the document. The point of view is the server's: it receives commands and sends publications."""
    types = {*(t for t, _ in COMMANDS.values()), *IN_CONVERSATION.values(), *OF_USER.values(), protocol.Error}
    for takes, gives, _ in RPC.values():
        types |= {takes} | ({gives} if gives else set())
    types.discard(protocol.Rpc)  # its data is read by the method
    _, schemas = msgspec.json.schema_components(sorted(types, key=lambda t: t.__name__), ref_template=REF)
    schemas["Rpc"] = {
        "title": "Rpc",
        "type": "object",
        "properties": {"method": {"enum": list(RPC)}, "data": {"description": "The method's own (see rpc.<method>)."}},
        "required": ["method", "data"],
    }
    messages: dict[str, Any] = {}
    for kind, (struct, summary) in COMMANDS.items():
        messages[f"command.{kind}"] = _message(summary, struct)
    for method, (takes, gives, summary) in RPC.items():
        messages[f"rpc.{method}"] = _message(f"{summary}: `data` of the rpc command", takes)
        messages[f"rpc.{method}.result"] = _message(f"{summary}: `rpc.data` of the reply", gives)
    for where, found in (("conversation", IN_CONVERSATION), ("user", OF_USER)):
        for kinds, struct in found.items():
            messages[f"{where}.{kinds.partition(',')[0]}"] = _message(f"`data` of publications: {kinds}", struct)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Sealwire WebSocket", "version": __version__, "description": ABOUT},
        "defaultContentType": "application/json",
        "servers": {
            name: {"host": f"127.0.0.1:{port}", "pathname": "/ws", "protocol": "ws"}
            for name, port in (("gateway", 3000), ("socket1", 3002), ("socket2", 3003))
        },
        "channels": {
            "socket": _channel("/ws", "The connection itself; /connection/websocket is an alias.",
                               [m for m in messages if m.startswith(("command.", "rpc."))], {}),
            "conversation": _channel("conversation:{conversation_id}", "For its members; they subscribe.",
                                     [m for m in messages if m.startswith("conversation.")],
                                     {"conversation_id": {"description": "The conversation's id"}}),
            "user": _channel("user:{user_id}", "For the person alone; subscribed by the server at connect.",
                             [m for m in messages if m.startswith("user.")],
                             {"user_id": {"description": "The person's own id"}}),
        },
        "operations": _operations(messages),
        "components": {"messages": messages, "schemas": schemas},
        "x-close-codes": {str(c.code): _told(c.code, c.reason) for c in CLOSES},
        "x-error-codes": {str(e.code): e.message for e in ERRORS},
    }  # fmt: skip


def _told(code: int, reason: str) -> str:
    final = 3500 <= code < 4000 or 4500 <= code < 5000
    return f"{reason} ({'final' if final else 'the client comes back'})"


def _message(summary: str, struct: type[Any] | None) -> dict[str, Any]:
    payload = {"$ref": REF.format(name=struct.__name__)} if struct is not None else {"type": "object"}
    return {"summary": summary, "payload": payload}


def _channel(address: str, about: str, messages: list[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    refs = {name: {"$ref": f"#/components/messages/{name}"} for name in messages}
    return {
        "address": address,
        "description": about,
        "messages": refs,
        **({"parameters": parameters} if parameters else {}),
    }


def _operations(messages: Mapping[str, Any]) -> dict[str, Any]:
    def ref(channel: str, name: str) -> dict[str, str]:
        return {"$ref": f"#/channels/{channel}/messages/{name}"}

    socket = {"$ref": "#/channels/socket"}
    found: dict[str, Any] = {}
    for kind, (_, summary) in COMMANDS.items():
        found[kind] = {
            "action": "receive",
            "channel": socket,
            "summary": summary,
            "messages": [ref("socket", f"command.{kind}")],
        }
    for method, (_, _, summary) in RPC.items():
        found[f"rpc.{method}"] = {
            "action": "receive",
            "channel": socket,
            "summary": summary,
            "messages": [ref("socket", f"rpc.{method}")],
            "reply": {"channel": socket, "messages": [ref("socket", f"rpc.{method}.result")]},
        }
    for channel in ("conversation", "user"):
        told = [ref(channel, name) for name in messages if name.startswith(f"{channel}.")]
        found[f"publish.{channel}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": "Publish",
            "messages": told,
        }
    return found


def as_yaml(value: Any, indent: int = 0) -> str:
    """Write a document of dicts, lists and scalars as YAML: blocks, with every scalar in JSON's form (YAML 1.2)."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        lines = []
        for key, item in value.items():
            nested = isinstance(item, dict | list) and item
            lines.append(f"{pad}{_key(key)}:" + ("\n" + as_yaml(item, indent + 1) if nested else f" {_scalar(item)}"))
        return "\n".join(lines)
    if isinstance(value, list) and value:
        return "\n".join(
            f"{pad}- {as_yaml(item, indent + 1).lstrip() if isinstance(item, dict | list) and item else _scalar(item)}"
            for item in value
        )
    return pad + _scalar(value)


def _key(key: str) -> str:
    return key if key.replace("_", "").isalpha() else json.dumps(key, ensure_ascii=False)


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
