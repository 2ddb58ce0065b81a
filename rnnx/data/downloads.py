"""Texts that are downloaded once and kept in the user's data folder."""

import os
from pathlib import Path
from typing import NamedTuple

import platformdirs

from rnnx._core.install import install_command

TIMEOUT = 30  # seconds without a byte from the server


class Source(NamedTuple):
    """A file on the web."""

    url: str
    sha256: str


SOURCES = {
    # Tiny Shakespeare, 1,115,394 bytes, from A. Karpathy's char-rnn.
    "shakespeare": Source(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def downloaded(name: str) -> Path:
    """Return the file of a text in `SOURCES`, downloaded if the data folder does not hold it yet.

    The folder is ``RNNX_DATA_DIR`` or the platform's. The checksum is verified in every call, and a file with another
    one is downloaded again.

    Raises
    ------
    ImportError
        If pooch is not installed.
    OSError
        If the file cannot be downloaded or written.
    ValueError
        If what the server sends has another checksum.
    """
    source = SOURCES[name]
    folder = Path(os.environ.get("RNNX_DATA_DIR") or platformdirs.user_data_path("rnnx"))
    try:
        import pooch
        import requests
    except ImportError:
        raise ImportError(f"downloading a text needs pooch; install it with: {install_command('lab')}") from None
    pooch.get_logger().setLevel("WARNING")
    hint = f"without a network, save the file as data/{name}.txt, or pass it with --text"
    try:
        file = pooch.retrieve(
            source.url, source.sha256, f"{name}.txt", folder, downloader=pooch.HTTPDownloader(timeout=TIMEOUT)
        )
    except requests.RequestException as error:
        raise OSError(f"cannot download {name} from {source.url} ({_reason(error)}); {hint}") from None
    except ValueError:  # the checksum; pooch has removed what it downloaded
        raise ValueError(f"{source.url} is not the expected file: its SHA-256 checksum is wrong; {hint}") from None
    return Path(file)


def _reason(error: Exception) -> str:
    """Return the cause of a failed request in a few words, without nested representations."""
    response = getattr(error, "response", None)
    if response is not None:
        response.close()  # pooch leaves it open
        return f"HTTP status {response.status_code}"
    return {
        "ConnectionError": "no connection",
        "ConnectTimeout": "timed out",
        "ReadTimeout": "timed out",
        "ChunkedEncodingError": "the transfer broke off",
        "SSLError": "the certificate cannot be verified",
        "ProxyError": "the proxy refuses the connection",
    }.get(type(error).__name__, type(error).__name__)
