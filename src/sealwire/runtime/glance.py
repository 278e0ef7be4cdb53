"""A look at a request that will be refused: enough to answer it and to tell of it, a part of what reading it costs."""

from __future__ import annotations

import httptools

Headers = list[tuple[bytes, bytes]]


class Glance:
    """Reads whole requests, one at a time, with the same parser as all others; who asked it says when to `forget`.

    What isn't whole, plain and alone in its piece is for the connection itself to read: it loses nothing by having been
    looked at here.
    """

    __slots__ = ("_begun", "_ended", "_goes_on", "_parser", "headers", "method", "url")

    def __init__(self) -> None:
        self._begun = self._ended = 0
        self._goes_on = False
        self.method = self.url = b""
        self.headers: Headers = []
        self._parser = httptools.HttpRequestParser(self)

    def whole(self, piece: bytes) -> bool:
        """Whether a piece is one whole request and nothing more; `method`, `url` and `headers` (lowercase) tell of it.

        Also false where the answer would be none of the plain ones: to HEAD, to who closes the connection afterwards or
        speaks HTTP/1.0. And where somebody before us may have read its end in another way (RFC 9112 section 6.1):
        with a transfer coding, or without exactly one host.
        """
        self._begun = self._ended = 0
        self.forget()
        parser = self._parser
        try:
            parser.feed_data(piece)
            if self._begun == self._ended == 1 and self._goes_on and parser.get_http_version() == "1.1":
                self.method = parser.get_method()
                return self.method != b"HEAD" and self._is_plain()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            pass
        self._parser = httptools.HttpRequestParser(self)  # the one before waits for the rest, or for nothing any more
        return False

    def forget(self) -> None:
        """Keep nothing of the last request: its headers hold secrets, and the next may be long in coming."""
        self.url = b""
        self.headers = []

    def _is_plain(self) -> bool:
        hosts = 0
        for name, _ in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                return False
        return hosts == 1

    # ---- the parser's side

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        self._ended += 1
        self._goes_on = self._parser.should_keep_alive()  # of this message; afterwards it is of the next
