"""The command that installs what is missing."""

import re


def install_command(extra: str) -> str:
    """Return the command that installs an extra of rnnx.

    It names the packages of the extra and not rnnx itself, so that it works wherever rnnx came from: a clone, a built
    file or an index. Every shell understands double quotes.
    """
    from importlib import metadata  # takes 30 ms

    try:
        required = metadata.requires("rnnx") or []
    except metadata.PackageNotFoundError:  # on the path, but not installed
        required = []
    packages = [
        package.strip()
        for package, _, condition in (line.partition(";") for line in required)
        if re.search(rf"""\bextra == (['"]){extra}\1""", condition)
    ]
    return " ".join(["pip install", *(f'"{package}"' for package in packages or [f"rnnx[{extra}]"])])
