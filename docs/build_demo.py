"""Train the default model and write it for the front page: ``python docs/build_demo.py``.

The result, ``_static/dinos.js``, holds a WebAssembly module as text, so that the page works without a server, too.
It is built again when the default model or the C export changes. Needs the extras jit, lab and zig.
"""

import base64
import tempfile
from pathlib import Path

from click.testing import CliRunner

from rnnx.cli import cli

OUTPUT = Path(__file__).with_name("_static") / "dinos.js"


def run(*arguments):
    """One ``rnnx`` command; what it prints is shown."""
    print("rnnx", *arguments, flush=True)
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    print(result.output)
    if result.exit_code:
        raise SystemExit(result.exit_code)


def build(folder):
    """The bytes of the module, made in a folder."""
    run("train", "--output", str(folder / "run"))
    run("export", str(folder / "run"), str(folder / "dinos.c"), "--int8", "--shared", "--target", "wasm32")
    return (folder / "dinos.wasm").read_bytes()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        module = build(Path(folder))
    OUTPUT.write_text(f'"use strict";\nconst DINOS = "{base64.b64encode(module).decode()}";\n', encoding="ascii")
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size:,} bytes")
