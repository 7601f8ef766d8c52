"""HTTP server of the page: for this machine unless asked otherwise, and for reading only.

A page of another site that is open in the same browser can send requests to this machine.
Therefore the server answers only requests that name it as their host, which a domain of an
attacker that points here (DNS rebinding) does not, and rejects those that the browser marks as
another site's. Answers come from memory: no path of a request reaches the file system.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import secrets
import socket
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ivf_core.html.render import render
from ivf_core.view.protocol import Content, View

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "ViewServer"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8642

_log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 64
_IDLE_SECONDS = 30.0
_FRAME = re.compile(r"/frames/(\d{1,9})(?:/([a-z]{1,16}\.(?:jpg|png|zip)))?")
_HEADERS = {
    "Cache-Control": "no-store",  # images of cameras do not belong on the browser's disk
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class ViewServer:
    """Server of one view, in threads of its own.

    Args:
        view: what the page shows; the caller closes it after the server.
        host: address or name to listen at.
        port: port to listen at; 0 takes a free one.

    Attributes:
        url: address of the page.
        is_local: whether only this machine can reach it.

    Raises:
        ValueError: nothing can listen at this address or port; names both and the remedy.
    """

    def __init__(self, view: View, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port is {port}, expected 0 to 65535")
        self._view = view
        self._page: bytes | None = None
        self._nonce = secrets.token_urlsafe(16)
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        server = self

        class Handler(_Handler):
            owner = server

        try:
            family, *_, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._http = _Server(str(address[0]), port, family, Handler, self._free)
        except OSError as error:
            remedy = "--port 0 takes a free one" if port else "choose another host"
            raise ValueError(
                f"host '{host}', port {port}: cannot listen there ({error.strerror or error}); "
                f"{remedy}"
            ) from error
        self._port = self._http.server_address[1]
        self._names = {host.lower(), "localhost"}
        self.is_local = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        if not self.is_local:
            self._names.add(socket.gethostname().lower())
        shown = f"[{host}]" if ":" in host else host
        if host in ("0.0.0.0", "::", ""):
            shown = socket.gethostname()
        self.url = f"http://{shown}:{self._port}/"
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="view server", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; answers under way are broken off."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def is_addressed(self, host: str) -> bool:
        """Return whether a Host header names this server.

        A server for this machine has the names of this machine alone. One for a network also
        has any numeric address, which no foreign domain can pretend to be.

        Args:
            host: the header.
        """
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", host.strip().lower())
        if match is None or int(match[2] or 80) != self._port:
            return False
        name = match[1].strip("[]")
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback if self.is_local else True

    def page(self) -> Content:
        """Return the page, rendered once."""
        if self._page is None:
            text = render("view.html.j2", view=self._view.describe(), nonce=self._nonce)
            self._page = text.encode()
        return Content("text/html; charset=utf-8", self._page)

    def answer(self, target: str) -> Content:
        """Return the answer to a request.

        Args:
            target: path and query of the request.

        Raises:
            LookupError: there is nothing under this address.
        """
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, max_num_fields=8))
        if parts.path == "/":
            return self.page()
        if parts.path == "/status":
            return _json(self._view.status(_count(query, "since"), _count(query, "after")))
        match = _FRAME.fullmatch(parts.path)
        if match is None:
            raise LookupError("no such page")
        number = int(match[1])
        if match[2] is None:
            return _json(self._view.frame(number))
        return self._view.content(number, match[2], query)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST_CONNECTIONS

    def __init__(
        self,
        host: str,
        port: int,
        family: int,
        handler: type[BaseHTTPRequestHandler],
        free: threading.BoundedSemaphore,
    ) -> None:
        self.address_family = family
        self._free = free
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread, or close it where there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what ended a connection; one that the browser breaks off is no fault."""
        _log.debug("connection of %s ended", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    owner: ViewServer
    protocol_version = "HTTP/1.1"
    server_version = "ivf"
    sys_version = ""
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def _respond(self, *, with_body: bool) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.owner.is_addressed(hosts[0]):
            self._send(_failure("this server has another name"), HTTPStatus.FORBIDDEN, with_body)
            return
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self._send(_failure("asked by another site"), HTTPStatus.FORBIDDEN, with_body)
            return
        try:
            content, status = self.owner.answer(self.path), HTTPStatus.OK
        except LookupError as error:
            content, status = _failure(str(error.args[0])), HTTPStatus.NOT_FOUND
        except ValueError as error:
            content, status = _failure(str(error)), HTTPStatus.BAD_REQUEST
        except Exception as error:  # the page shows it, and the server continues
            _log.exception("request %s failed", self.path)
            content, status = _failure(str(error)), HTTPStatus.INTERNAL_SERVER_ERROR
        self._send(content, status, with_body)

    def _send(self, content: Content, status: HTTPStatus, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        policy = (
            f"default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'nonce-{self.owner._nonce}'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        self.send_header("Content-Security-Policy", policy)
        self.send_header("Content-Type", content.kind)
        self.send_header("Content-Length", str(len(content.data)))
        if content.name:
            self.send_header("Content-Disposition", f'attachment; filename="{content.name}"')
        self.end_headers()
        if with_body:
            self.wfile.write(content.data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a malformed request, or one of another method than GET and HEAD."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED and getattr(self, "command", None):
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD"
        self._send(_failure(message or "bad request"), HTTPStatus(code))

    def end_headers(self) -> None:
        if self.close_connection:
            self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log requests for debugging only."""
        _log.debug("%s: " + format, self.address_string(), *args)


def _json(value: Mapping[str, Any]) -> Content:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Content("application/json", text.encode())


def _failure(text: str) -> Content:
    return _json({"error": text})


def _count(query: Mapping[str, str], name: str) -> int:
    """Return a whole number of the query, -1 where it is missing."""
    text = query.get(name, "-1")
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise ValueError(f"{name} is {text[:40]!r}, expected a whole number")
    return int(text)
