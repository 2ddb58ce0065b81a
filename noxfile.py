#!/usr/bin/env -S uv run --script

# /// script
# dependencies = ["nox"]
# ///
"""The checks as nox sessions, each in an environment of its own: `nox -l` lists them."""

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"


@nox.session
def lint(session):
    """Lint, formatting and types."""
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"], default=False)
def fast(session):
    """A selection of the tests that covers every area."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", "--fast", *session.posargs)


@nox.session
def tests(session):
    """The whole suite, with the libraries it compares with."""
    session.install("-e", ".[test,peers]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(default=False)
def docs(session):
    """The site, in docs/_build/html."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session(default=False)
def lite(session):
    """The notebook as a page that runs in the browser, in docs/_build/lite."""
    session.install("jupyterlite-core[contents]>=0.8", "jupyterlite-pyodide-kernel>=0.8")
    session.run("python", "docs/build_lite.py")


@nox.session(default=False)
def build(session):
    """The files for an index, in dist/."""
    session.install("build", "twine")
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", "dist/*")


if __name__ == "__main__":
    nox.main()
