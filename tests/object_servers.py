"""Object stores on loopback: moto's S3 server, and a front before it that disturbs requests."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from stillstack.address import Address, located

KEY_ID: Final = "AKIALOOPBACKTEST"
SECRET: Final = "loopback-secret-that-must-not-appear"  # noqa: S105  # of no use elsewhere
PASSED_ON: Final = ("date", "server", "connection", "transfer-encoding", "content-length")
SLOW_DOWN: Final = (
    503,
    "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
)
DENIED: Final = (403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")


@dataclass(frozen=True)
class Request:
    """What a fault is decided by."""

    method: str
    key: str
    conditional: bool
    number: int


Fault = str | tuple[int, str] | float
"""``"drop"`` before the request is passed on, ``"lose"`` the answer after it, ``"cut"`` the answer
in half, ``"blind"`` to conditions, an answer to give instead, or a delay in seconds."""


@dataclass
class Front:
    """Passes requests on to a server; those that ``fault`` names are disturbed.

    Conditional requests pass one at a time, because moto does not look and write in one step.
    """

    backend: str
    fault: Callable[[Request], Fault | None] = lambda _: None
    seen: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._counting = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._number = 0
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None: ...

            def handle_any(self) -> None:
                front.handle(self)

        for method in ("GET", "PUT", "HEAD", "DELETE", "POST"):
            setattr(Handler, f"do_{method}", Handler.handle_any)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None: ...

        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length) if length else b""
        key = urllib.parse.unquote(handler.path.split("?")[0])
        conditional = bool(handler.headers.get("If-None-Match") or handler.headers.get("If-Match"))
        with self._counting:
            self._number += 1
            request = Request(str(handler.command), key, conditional, self._number)
            self.seen[f"{request.method} {key}"] += 1
            fault = self.fault(request)
            if fault is not None:
                self.injected[str(fault[0] if isinstance(fault, tuple) else fault)] += 1
        if isinstance(fault, float):
            time.sleep(fault)
        if fault == "drop":
            self._hang_up(handler)
            return
        if isinstance(fault, tuple):
            self._answer(handler, fault[0], {"Content-Type": "application/xml"}, fault[1].encode())
            return
        if fault == "blind":
            del handler.headers["If-None-Match"]
        status, headers, answer = self._passed_on(handler, body, conditional)
        if request.method == "PUT" and status == 200:
            with self._counting:
                self.stored[key] += 1
        if fault == "lose":
            self._hang_up(handler)
            return
        self._answer(handler, status, headers, answer, cut=fault == "cut")

    def _passed_on(
        self, handler: BaseHTTPRequestHandler, body: bytes, conditional: bool
    ) -> tuple[int, dict[str, str], bytes]:
        lock = self._one_at_a_time if conditional else contextlib.nullcontext()
        with lock:
            connection = http.client.HTTPConnection(self.backend, timeout=60)
            try:
                headers = {k: v for k, v in handler.headers.items() if k.lower() != "connection"}
                connection.request(str(handler.command), handler.path, body or None, headers)
                response = connection.getresponse()
                answer = response.read()
                kept = {k: v for k, v in response.getheaders() if k.lower() not in PASSED_ON}
                if handler.command == "HEAD":
                    kept["Content-Length"] = response.headers.get("Content-Length") or "0"
                return response.status, kept, answer
            finally:
                connection.close()

    @staticmethod
    def _hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.connection.shutdown(socket.SHUT_RDWR)

    def _answer(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        *,
        cut: bool = False,
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if handler.command != "HEAD":
            handler.send_header("Content-Length", str(len(body)))
        elif "Content-Length" not in headers:
            handler.send_header("Content-Length", "0")
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up(handler)


@dataclass
class Bucket:
    """A bucket of the test's own, behind a front of its own."""

    name: str
    front: Front

    def place(self, key: str) -> Address:
        found = located(f"s3://{self.name}/{key}", self.options)
        assert isinstance(found, Address)
        return found

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint": self.front.endpoint, "region": "us-east-1"}


def sometimes(share: float, seed: int = 0) -> Callable[[Request], Fault | None]:
    """Faults of every kind, in this share of the requests; the same ones in each run."""
    chance = random.Random(seed)  # noqa: S311
    kinds: list[Fault] = [SLOW_DOWN, "drop", "lose", "cut", 0.2]

    def fault(request: Request) -> Fault | None:
        kind = chance.choice(kinds)
        return kind if chance.random() < share else None

    return fault


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """Address (host:port) of moto's server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stderr is not None
        found = None
        for line in process.stderr:
            found = re.search(r"http://(127\.0\.0\.1:\d+)", line)
            if found:
                break
        assert found, "moto's server did not start"
        drained = threading.Thread(target=_drain, args=(process.stderr,), daemon=True)
        drained.start()
        yield found[1]
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            drained.join()
            process.stderr.close()


def _drain(stream: Any) -> None:
    for _ in stream:
        pass


def make_bucket(server: str, name: str) -> None:
    """Make a bucket with one unsigned request, which moto takes."""
    connection = http.client.HTTPConnection(server, timeout=30)
    connection.request(
        "PUT",
        f"/{name}",
        headers={
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/s3/aws4_request"
        },
    )
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()
