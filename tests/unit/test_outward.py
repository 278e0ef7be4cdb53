"""Calls to other people's servers: never into networks of our own, in no dress of an address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sealwire.adapters.distributed.outward import MAX_ANSWER_BYTES, HttpOutward
from sealwire.services.auth.openid_ports import OutwardRefused

INSIDE = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:0a00:0001::1", "localhost", "",
    "::7f00:1", "::ffff:0:7f00:1", "64:ff9b:1::a00:1", "fec0::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside_is_not_called(address: str) -> None:
    assert not HttpOutward().allows(address, plain=False)
    assert not HttpOutward().allows(address, plain=True)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_what_is_public_is_called_by_https_only(address: str) -> None:
    assert HttpOutward().allows(address, plain=False)
    assert not HttpOutward().allows(address, plain=True)


def test_networks_are_named_and_plain_http_stays_on_this_machine() -> None:
    outward = HttpOutward(networks=["10.1.0.0/16", "127.0.0.0/8"])
    assert outward.allows("10.1.2.3", plain=False)
    assert not outward.allows("10.1.2.3", plain=True)
    assert not outward.allows("10.2.0.1", plain=False)
    assert outward.allows("127.0.0.1", plain=True)


class Server:
    """Answers every connection with these bytes, and counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"
        self.port = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.talk, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_no_way_of_writing_this_machine_leads_to_it(server: Server, host: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises((OutwardRefused, OSError)):
            await HttpOutward().get(f"{scheme}://{host}:{server.port}/")
    assert server.asked == 0


@pytest.mark.parametrize("url", ["ftp://example.org/", "file:///etc/passwd", "https://", "https://a:b@example.org/"])
async def test_other_schemes_are_not_called(url: str) -> None:
    with pytest.raises(OutwardRefused):
        await HttpOutward(networks=["127.0.0.0/8"]).get(url)


async def test_answers_are_read_and_redirects_are_not_followed(server: Server) -> None:
    outward = HttpOutward(networks=["127.0.0.0/8"])
    url = f"http://127.0.0.1:{server.port}/x"
    assert (await outward.get(url)).body == b"{}"
    server.answer = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    assert (await outward.post(url, {"a": "b"}, basic=("id", "secret"))).status == 302
    assert server.asked == 2


async def test_answers_are_bounded_and_faults_are_outages(server: Server) -> None:
    outward = HttpOutward(networks=["127.0.0.0/8"])
    url = f"http://127.0.0.1:{server.port}/x"
    body = b"x" * (MAX_ANSWER_BYTES + 1)
    server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with pytest.raises(OSError, match="too long"):
        await outward.get(url)
    server.answer = b"nonsense\r\n\r\n"
    with pytest.raises(OSError, match=r"\w+"):
        await outward.get(url)
    with pytest.raises(OSError, match=r"\w+"):
        await outward.get("http://127.0.0.1:1/")
