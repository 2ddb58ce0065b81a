"""Texts that are downloaded once, from a local HTTP server."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rnnx.data import downloads

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 40


class Server(HTTPServer):
    """Serves `content`, of which it promises `promised` bytes, with a status, and counts the requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.promised, self.status, self.requests = TEXT, len(TEXT), 200, 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests += 1
        self.send_response(server.status)
        self.send_header("Content-Length", str(server.promised))
        self.end_headers()
        self.wfile.write(server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    pytest.importorskip("pooch")
    monkeypatch.setenv("RNNX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        source = downloads.Source(f"http://127.0.0.1:{running.server_port}/t.txt", hashlib.sha256(TEXT).hexdigest())
        monkeypatch.setitem(downloads.SOURCES, "shakespeare", source)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def kept(tmp_path):
    return [path.name for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_a_text_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        path = downloads.downloaded("shakespeare")
        assert path == tmp_path / "data" / "shakespeare.txt"
        assert path.read_bytes() == TEXT
    assert server.requests == 1


def test_a_damaged_copy_is_replaced(server, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shakespeare.txt").write_bytes(TEXT[:-1])
    assert downloads.downloaded("shakespeare").read_bytes() == TEXT


def test_another_checksum(server, tmp_path):
    server.content = TEXT[:-1] + b"!"
    with pytest.raises(ValueError, match=r"t\.txt is not the expected file: .*; without a network, .* --text"):
        downloads.downloaded("shakespeare")
    assert kept(tmp_path) == []


def test_a_broken_transfer(server, tmp_path):
    server.content = TEXT[:1000]
    with pytest.raises(
        (OSError, ValueError), match=r"shakespeare.*the transfer broke off.*data/shakespeare.txt"
    ) as info:
        downloads.downloaded("shakespeare")
    assert "\n" not in str(info.value)
    assert kept(tmp_path) == []


def test_a_status_that_is_not_success(server, tmp_path):
    server.status = 503
    with pytest.raises(OSError, match=r"cannot download shakespeare from http.* \(HTTP status 503\); without"):
        downloads.downloaded("shakespeare")
    assert kept(tmp_path) == []


def test_no_network(server, monkeypatch, tmp_path):
    server.server_close()
    with pytest.raises(OSError, match=r"\(no connection\); without a network, save the file as data/shakespeare.txt"):
        downloads.downloaded("shakespeare")
    assert kept(tmp_path) == []


def test_the_real_source_is_tiny_shakespeare():
    source = downloads.SOURCES["shakespeare"]
    assert source.url.startswith("https://")
    assert len(source.sha256) == 64
