"""Texts by name, and those that are downloaded once, from a local HTTP server."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from lab import NAMES, ok

from rnnx.data import CORPORA, downloads, find_text
from rnnx.training import Settings

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
    assert downloads.SOURCES["shakespeare"] == (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    )


def test_the_folder_of_the_user(server, monkeypatch, tmp_path):
    """Unless RNNX_DATA_DIR says otherwise."""
    for value in (None, ""):
        monkeypatch.setattr(downloads.platformdirs, "user_data_path", lambda name: tmp_path / "home" / name)
        monkeypatch.delenv("RNNX_DATA_DIR", raising=False) if value is None else monkeypatch.setenv("RNNX_DATA_DIR", "")
        assert downloads.downloaded("shakespeare") == tmp_path / "home" / "rnnx" / "shakespeare.txt"
    assert server.requests == 1


# --- the command line --------------------------------------------------------------------------------------------

TINY = ("--hidden-size", 4, "--cell", "rnn", "--iterations", 2, "--batch-size", 4)


def test_train_on_a_download(server, run, tmp_path):
    for _ in range(2):
        out = ok(run("train", "--dataset", "shakespeare", *TINY))
        assert "shakespeare: 40 lines to train on" in out
    assert server.requests == 1
    assert "best validation loss" in ok(run("train", "--resume", "runs/shakespeare-rnn", "--iterations", 4))
    assert "validation part" in ok(run("evaluate", "runs/shakespeare-rnn"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": TEXT[:-1] + b"!"}, "is not the expected file: its SHA-256 checksum is wrong; without a network, "),
        ({"content": TEXT[:1000]}, "the transfer broke off"),
        ({"status": 404}, "(HTTP status 404); without a network, save the file as data/shakespeare.txt, or pass it"),
        (None, "(no connection); without a network, save the file as data/shakespeare.txt, or pass it with --text"),
    ],
)
def test_a_failed_download_is_one_line(server, run, tmp_path, change, message):
    server.server_close() if change is None else vars(server).update(change)
    code, _, err = run("train", "--dataset", "shakespeare", *TINY)
    assert code == 1
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert kept(tmp_path) == []
    assert not (tmp_path / "runs").exists()
    (tmp_path / "data").mkdir(exist_ok=True)  # the way out that the message names
    (tmp_path / "data" / "shakespeare.txt").write_bytes(TEXT)
    ok(run("train", "--dataset", "shakespeare", *TINY))


def test_a_file_in_the_folder_data(run, tmp_path, monkeypatch):
    """It is found by name, and its run resumes from another folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "beasts.txt").write_text(NAMES)
    assert "beasts: 54 lines to train on" in ok(run("train", "--dataset", "beasts", *TINY))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert "resuming after step 2" in ok(run("train", "--resume", "../runs/beasts-rnn", "--iterations", 4))
    assert str(tmp_path / "data" / "beasts.txt") in ok(run("info", "../runs/beasts-rnn"))
    assert "beasts, validation part" in ok(run("evaluate", "../runs/beasts-rnn"))


def test_order_of_names(tmp_path, monkeypatch):
    """Built-in texts come first, then files, then downloads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("dinos", "shakespeare"):
        (tmp_path / "data" / f"{name}.txt").write_text("a text of one's own")
    assert find_text("dinos") == CORPORA["dinos"]()
    assert find_text("shakespeare") == tmp_path / "data" / "shakespeare.txt"


@pytest.mark.parametrize("name", ["poem", "", ".", "../names", "names.txt", "data/beasts", "a\0b", "Dinos"])
@pytest.mark.parametrize("command", [("train",), ("compare", "torch")])
def test_unknown_names_list_those_that_there_are(run, tmp_path, name, command):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "beasts.txt").write_text(NAMES)
    code, _, err = run(*command, "--dataset", name)
    assert code == 1
    assert f"Error: there is no dataset {name!r}; available: dinos, dinosaurs, pydoc (built in), shakespeare" in err
    assert "(downloaded), beasts (data/*.txt). Add your own as data/NAME.txt" in err
    assert err.count("\n") == 1
    with pytest.raises(ValueError, match="there is no dataset"):
        Settings(dataset=name).corpus()
