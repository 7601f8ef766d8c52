"""Server of the view page: whom it answers, and what it never does."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ivf_core.view.panels import page_values
from ivf_core.view.protocol import Content
from ivf_core.view.server import ViewServer


class Frames:
    """View of three frames of text."""

    def describe(self) -> dict[str, Any]:
        return page_values("</script><b>bag", live=False, facts=[], legend=[], rate_hz=1.0)

    def status(self, since: int, after: int) -> dict[str, Any]:
        return {"since": since, "after": after}

    def frame(self, number: int) -> dict[str, Any]:
        if number > 2:
            raise LookupError(f"frame {number}: there are 3")
        return {"number": number}

    def content(self, number: int, name: str, options: Mapping[str, str]) -> Content:
        if name == "fused.png":
            raise RuntimeError("out of memory")
        return Content("image/jpeg", f"{number} {name} {dict(options)}".encode())

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ViewServer]:
    server = ViewServer(Frames(), port=0)
    yield server
    server.close()


def port_of(server: ViewServer) -> int:
    return int(server.url.rstrip("/").rpartition(":")[2])


def ask(
    server: ViewServer, target: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=20)
    connection.putrequest(method, target, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_page_is_one_file_that_may_fetch_from_its_server_alone(server: ViewServer) -> None:
    status, headers, body = ask(server, "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline'; script" not in policy.partition("script-src")[2]
    assert headers["Cache-Control"] == "no-store"
    assert b"http://" not in body.replace(b"http://www.w3.org", b"")
    assert b"https://" not in body
    assert b"</script><b>" not in body


def test_answers_have_the_content_asked_for(server: ViewServer) -> None:
    assert json.loads(ask(server, "/status?since=4")[2]) == {"since": 4, "after": -1}
    assert json.loads(ask(server, "/frames/2")[2]) == {"number": 2}
    assert ask(server, "/frames/1/mask.png?opacity=1")[2] == b"1 mask.png {'opacity': '1'}"
    status, headers, body = ask(server, "/frames/1", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "12", b"")


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:{port}",
        "localhost.attacker.example:{port}",
        "127.0.0.1:1",
        "127.0.0.1",
        "127.0.0.1:{port}@attacker.example",
        "192.168.1.2:{port}",
        "",
        "[::1",
    ],
)
def test_other_hosts_are_rejected(server: ViewServer, host: str) -> None:
    """A domain that an attacker lets point here keeps its name in the header."""
    assert ask(server, "/status", Host=host.format(port=port_of(server)))[0] == 403


@pytest.mark.parametrize(
    "host", ["localhost:{port}", "127.0.0.1:{port}", "LOCALHOST:{port}", "[::1]:{port}"]
)
def test_names_of_this_machine_are_accepted(server: ViewServer, host: str) -> None:
    assert ask(server, "/status", Host=host.format(port=port_of(server)))[0] == 200


def test_hosts_of_a_server_for_the_network() -> None:
    server = ViewServer(Frames(), "0.0.0.0", 0)
    try:
        port = port_of(server)
        assert not server.is_local
        assert server.is_addressed(f"192.168.1.2:{port}")
        assert server.is_addressed(f"{socket.gethostname()}:{port}")
        assert not server.is_addressed(f"attacker.example:{port}")
    finally:
        server.close()


def test_requests_of_other_sites_are_rejected(server: ViewServer) -> None:
    for site in ("cross-site", "same-site"):
        assert ask(server, "/frames/1/fused.jpg", Sec_Fetch_Site=site)[0] == 403
    assert ask(server, "/frames/1/fused.jpg", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/../../etc/passwd",
        "/frames/../../etc/passwd",
        "/frames/1/..%2f..%2fetc%2fpasswd",
        "/frames/1/",
        "/frames/",
        "/frames/-1",
        "/frames/9999999999999",
        "/frames/1/fused.exe",
        "//etc/passwd",
        "/index.html",
        "/frames/7",
    ],
)
def test_other_paths_are_not_found(server: ViewServer, target: str) -> None:
    status, _, body = ask(server, target)
    assert status == 404
    assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"])
def test_other_methods_are_not_allowed(server: ViewServer, method: str) -> None:
    assert ask(server, "/status", method)[0] == 405


def test_bad_queries_and_failures_are_answered(server: ViewServer) -> None:
    assert ask(server, "/status?since=1;2")[0] == 400
    status, _, body = ask(server, "/frames/1/fused.png")
    assert (status, json.loads(body)) == (500, {"error": "out of memory"})
    assert ask(server, "/status")[0] == 200


def test_malformed_requests_are_answered(server: ViewServer) -> None:
    for data in (b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port_of(server)), 20) as connection:
            connection.sendall(data)
            answer = connection.recv(4096)
            assert b" 400 " in answer.split(b"\r\n")[0] or b" 403 " in answer or b"error" in answer


def test_many_connections_leave_room_for_later_ones(server: ViewServer) -> None:
    opened = [socket.create_connection(("127.0.0.1", port_of(server)), 20) for _ in range(90)]
    for connection in opened:
        connection.close()
    for _ in range(200):  # until the threads of the closed connections have ended
        try:
            assert ask(server, "/status")[0] == 200
            break
        except (ConnectionError, http.client.HTTPException):
            threading.Event().wait(0.05)
    else:
        pytest.fail("no connection is accepted")


def test_a_taken_port_is_named_with_the_remedy(server: ViewServer) -> None:
    with pytest.raises(ValueError, match=rf"port {port_of(server)}: cannot listen .*--port 0"):
        ViewServer(Frames(), port=port_of(server))
    with pytest.raises(ValueError, match="port is 70000"):
        ViewServer(Frames(), port=70000)


def test_pages_folder_is_not_listed(server: ViewServer) -> None:
    names = [path.name for path in Path(__file__).parent.iterdir()]
    for target in ("/", "/frames", "/static"):
        body = ask(server, target)[2].decode()
        assert not any(name in body for name in names)
