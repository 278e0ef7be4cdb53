"""Commands are read strictly by type and leniently by name; replies are what the clients parse."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.services.socket import protocol
from sealwire.services.socket.protocol import BadFrame, Error, Subscribed, decode_commands


def test_one_frame_holds_several_commands() -> None:
    frame = (
        b'{"id":1,"connect":{"token":"t","name":"js","data":{"x":1},"subs":{"user:1":{"recover":true,"offset":7,'
        b'"epoch":"e"}}}}\n{"id":2,"subscribe":{"channel":"conversation:1","flag":1,"recover":true,"offset":3}}\n'
        b'{"id":3,"rpc":{"method":"message.send","data":{"a":[1, 2]}}}\n\n{}'
    )
    connect, subscribe, rpc, pong = decode_commands(frame)
    assert connect.connect is not None
    assert connect.connect.subs == {"user:1": protocol.Recovery(recover=True, offset=7, epoch="e")}
    assert subscribe.subscribe == protocol.Subscribe(channel="conversation:1", flag=1, recover=True, offset=3)
    assert rpc.rpc is not None
    assert bytes(rpc.rpc.data) == b'{"a":[1, 2]}'
    assert pong == protocol.PONG
    assert rpc != protocol.PONG


def test_members_of_newer_clients_are_passed_over() -> None:
    (command,) = decode_commands(b'{"id":1,"shiny":{"new":[1]},"subscribe":{"channel":"c","later":null,"tf":{}}}')
    assert command.subscribe == protocol.Subscribe(channel="c")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\n \n",
        b"nonsense",
        b"[]",
        b"[{}]",
        b"null",
        b'"x"',
        b"1",
        b'{"id":"1"}',
        b'{"id":-1}',
        b'{"id":1.5}',
        b'{"id":4294967296}',
        b'{"id":true}',
        b'{"id":1,"connect":[]}',
        b'{"id":1,"connect":{"token":1}}',
        b'{"id":1,"subscribe":{}}',
        b'{"id":1,"subscribe":{"channel":null}}',
        b'{"id":1,"subscribe":{"channel":"%s"}}' % (b"c" * 256),
        b'{"id":1,"subscribe":{"channel":"c","offset":-1}}',
        b'{"id":1,"rpc":{"method":{}}}',
        b'{"id":1}\n{"id":',
        b'{"id":1}\x00',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id":1,"rpc":{"method":"\\ud800"}}',
        b"\xef\xbb\xbf{}",
        b'{"id":NaN}',
    ],
)
def test_malformed_frames_are_refused_as_a_whole(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_commands(frame)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_commands_or_a_bad_frame(frame: bytes) -> None:
    with contextlib.suppress(BadFrame):
        assert decode_commands(frame)


hostile = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)


@given(hostile, hostile, hostile)
def test_whatever_a_name_holds_replies_stay_one_line_of_json(name: str, epoch: str, other: str) -> None:
    publication = protocol.encode_publication(json.dumps({"body": other}).encode(), 9)
    subscribed = Subscribed(offset=8, epoch=epoch, positioned=True, recovered=True, was_recovering=True,
                            publications=[publication])  # fmt: skip
    connected = protocol.Connected(
        client=name, version=other, node="n", ping_s=25, ttl_s=60, subs={name: subscribed, "plain": Subscribed()}
    )
    lines = [
        protocol.encode_connect(1, connected),
        protocol.encode_subscribe(2, subscribed),
        protocol.encode_error(3, Error(400, name, temporary=True)),
        protocol.encode_unsubscribe_push(name, 2000, other),
        protocol.encode_history(4, offset=9, epoch=epoch, publications=[publication]),
        protocol.encode_presence(5, {name: other}),
        protocol.encode_presence_stats(6, clients=1, users=2),
        protocol.encode_refresh(7, client=name, version=other, ttl_s=0),
    ]
    assert not any(b"\n" in line for line in lines)
    replies = [json.loads(line) for line in lines]
    assert replies[0]["connect"]["subs"][name]["publications"] == [{"data": {"body": other}, "offset": 9}]
    assert replies[0]["connect"]["ttl"] == 60
    assert replies[0]["connect"]["pong"] is True
    assert replies[1]["subscribe"]["epoch"] == epoch
    assert replies[2]["error"] == {"code": 400, "message": name, "temporary": True}
    assert replies[3]["push"] == {"channel": name, "unsubscribe": {"code": 2000, "reason": other}}
    assert replies[5]["presence"]["presence"] == {name: {"client": name, "user": other}}
    assert "expires" not in replies[7]["refresh"]
