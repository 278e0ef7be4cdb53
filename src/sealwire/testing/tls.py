"""TLS before a server that has none: a certificate authority for tests, and a front that ends TLS on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CHUNK_BYTES = 65_536
TLS_HANDSHAKE = b"\x16"
_DAY = datetime.timedelta(days=1)
_PEM = serialization.Encoding.PEM


class Authority:
    """Signs certificates of servers. `path` is its own certificate, for who shall trust it."""

    def __init__(self, folder: Path, name: str = "Test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._builder(self._name, self._key.public_key())
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = own.sign(self._key, hashes.SHA256())
        self.path = folder / "ca.pem"
        self.path.write_bytes(self._certificate.public_bytes(_PEM))

    def server_context(self, host: str) -> ssl.SSLContext:
        """Return what a server called `host` (a name or an address) needs to speak TLS."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        builder = self._builder(subject, key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        file = self._folder / f"{host}.pem"
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(private + certificate.public_bytes(_PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _builder(self, subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )


class TlsFront:
    """Ends TLS on 127.0.0.1 and passes on to `target_port` in the clear. Use as a context manager."""

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        self._target_port = target_port
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-front", daemon=True)
        self.port = 0

    def __enter__(self) -> TlsFront:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _close(self) -> None:
        await self._stop_listening()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # the server is gone, so the connection is
            writer.transport.abort()
            return
        try:
            pumps = [asyncio.create_task(_pump(reader, there)), asyncio.create_task(_pump(back, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        finally:
            writer.transport.abort()
            there.transport.abort()


class EitherFront(TlsFront):
    """The same for who speaks TLS; who does not is passed on as they come. So one address serves clients over TLS and
    peers, such as sentinels and replicas, of a build without it. `port` is known before it is entered."""

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        super().__init__(target_port, context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self.plain = self.secured = 0
        """How many connections came without and with TLS."""

    async def _listen(self) -> None:
        self._accepting = asyncio.create_task(self._accept())

    async def _stop_listening(self) -> None:
        self._accepting.cancel()
        self._listener.close()

    async def _accept(self) -> None:
        taken: set[asyncio.Task[None]] = set()
        while True:
            connection, _ = await self._loop.sock_accept(self._listener)
            task = asyncio.create_task(self._take(connection))
            taken.add(task)
            task.add_done_callback(taken.discard)

    async def _take(self, connection: socket.socket) -> None:
        """Look at the first byte, without taking it, and serve."""
        first = asyncio.Event()
        self._loop.add_reader(connection, first.set)
        try:
            await first.wait()
        finally:
            self._loop.remove_reader(connection)
        with contextlib.suppress(OSError, ssl.SSLError):
            secured = connection.recv(1, socket.MSG_PEEK) == TLS_HANDSHAKE
            self.secured += secured
            self.plain += not secured
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._context if secured else None
            )
            await self._serve(reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while piece := await reader.read(CHUNK_BYTES):
            writer.write(piece)
            await writer.drain()
