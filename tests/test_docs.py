"""The documentation: its examples run, the site builds without a warning, and no link is broken."""

import contextlib
import doctest
import html.parser
import importlib
import importlib.util
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import rnnx

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NEEDS = {
    "practice.md": ("sklearn",),
    "torch.md": ("torch",),
    "jax.md": ("jax", "numba"),
    "onnx.md": ("onnx", "onnxruntime"),
    "tuning.md": ("optuna",),
}
PAGES = [
    "activations.md",
    "attention.md",
    "bptt.md",
    "c.md",
    "compare.md",
    "course.md",
    "index.md",
    "optimizers.md",
    "pictures.md",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("own_cell.md", "training.md", "losses.md", "data.md", *NEEDS)
    ),
]  # other pages have their own tests
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Not in the API reference: the command line has its own page.
NOT_FOR_PROGRAMS = {"cli"}


# --- examples ------------------------------------------------------------------------------------------------


def run_page(text, name):
    """Run the python and pycon blocks of a page in order, in one scope; return how many there are."""
    scope: dict = {"__name__": "page"}
    blocks = 0
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for match in FENCED.finditer(text):
        language, code = match.groups()
        if language == "python":
            # The added newlines make line numbers those of the page.
            exec(compile("\n" * text[: match.start(2)].count("\n") + code, name, "exec"), scope)
        elif language == "pycon":
            session = doctest.DocTestParser().get_doctest(code, scope, name, name, text[: match.start()].count("\n"))
            output: list[str] = []
            failed, _ = runner.run(session, out=output.append, clear_globs=False)
            assert not failed, "".join(output)
            scope.update(session.globs)
        else:
            continue
        blocks += 1
    return blocks


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
GALLERY = sorted(path.stem for path in (DOCS / "gallery").glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("name", PAGES)
def test_examples_run(name, tmp_path, monkeypatch):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    if name == "c.md" and not shutil.which("cc"):
        pytest.skip("no C compiler")
    monkeypatch.chdir(tmp_path)
    # Compiled code from the cache takes less time than the reference engine; own cells would have to be compiled.
    with rnnx.use_engine("reference") if name == "own_cell.md" else contextlib.nullcontext():
        assert run_page((DOCS / name).read_text(encoding="utf-8"), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", GALLERY)
def test_gallery(name, tmp_path, monkeypatch):
    """A page of the gallery runs, ends with a picture, and has a thumbnail."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    monkeypatch.chdir(tmp_path)
    run = runpy.run_path(DOCS / "gallery" / "thumbnails.py")["run"]
    with rnnx.use_engine("reference") if name == "own_cell" else contextlib.nullcontext():  # the others compile little
        assert isinstance(run(DOCS / "gallery" / f"{name}.md")["figure"], figure)
    assert f"thumbnails/{name}.png" in (DOCS / "gallery" / "index.md").read_text(encoding="utf-8")
    assert (DOCS / "gallery" / "thumbnails" / f"{name}.png").stat().st_size < 40_000
    assert list(tmp_path.iterdir()) == []


def test_the_gallery_is_there():
    assert len(GALLERY) >= 8


def test_wrong_examples_are_found():
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        run_page("```python\nx = 1\n```\n```pycon\n>>> x + 1\n3\n```\n", "page.md")


def test_commands_exist():
    """The page shows every command, and all commands and options that it shows exist."""
    click = pytest.importorskip("click")
    cli = importlib.import_module("rnnx.cli").cli
    shown = set()
    for language, code in FENCED.findall((DOCS / "command_line.md").read_text(encoding="utf-8")):
        for line in code.splitlines() if language == "sh" else ():
            program, name, *words = line.split()
            assert program == "rnnx"
            command = cli.commands[name]
            options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
            assert {word for word in words if word.startswith("-")} <= options, line
            shown.add(name)
    assert shown == set(cli.commands)


@pytest.mark.slow
def test_pictures_are_reproducible(tmp_path):
    pytest.importorskip("matplotlib")
    main = runpy.run_path(DOCS / "pictures" / "activations.py")["main"]
    for name in ("one.svg", "other.svg"):
        main(tmp_path / name)
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "other.svg").read_bytes()
    kept = (DOCS / "pictures" / "activations.svg").read_bytes()
    assert drawn.count(b"<path") == kept.count(b"<path")


# --- links in the repository ---------------------------------------------------------------------------------


def links_of_markdown(text):
    """Targets of links and images outside code."""
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", text))
    return re.findall(r"\]\(\s*<?([^)\s>]+)", text)


def missing_targets(path):
    """Relative links of a Markdown file whose target does not exist."""
    missing = []
    for link in links_of_markdown(path.read_text(encoding="utf-8")):
        parts = urlsplit(link)
        if not parts.scheme and parts.path and not (path.parent / unquote(parts.path)).exists():
            missing.append(link)
    return missing


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))], ids=lambda path: path.name)
def test_markdown_links(path):
    assert missing_targets(path) == []


def test_broken_markdown_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[a](page.md#there) ![b](no.svg) `[c](no.md)` [d](https://example.org) [e](#f) [g](no.md)\n")
    assert missing_targets(page) == ["no.svg", "no.md"]


# --- the site ------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """The anchors and references of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.references = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id" or (tag == "a" and key == "name"):
                self.anchors.add(value)
            elif key in ("href", "src") and value is not None and not (tag == "link" and ("rel", "canonical") in attrs):
                self.references.append(value)


def broken_links(site):
    """Internal references of a built site whose file or anchor does not exist."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for reference in page.references:
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = target in pages
            if not target.is_file() or (anchor and known and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site.resolve())}: {reference}")
    return broken


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: that of RNNX_SITE, or one whose notebook is not executed."""
    if "RNNX_SITE" in os.environ:
        return Path(os.environ["RNNX_SITE"])
    extensions = ("sphinx_copybutton", "sphinx_design", "sphinx-mathjax-offline")
    for package in ("sphinx", "numpydoc", "myst_nb", "furo", *extensions):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the documentation needs {package}: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("docs") / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    result = subprocess.run(
        [*command, "-D", "nb_execution_mode=off", str(DOCS), str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.slow
def test_site_has_no_broken_links(site):
    assert (site / "index.html").exists()
    assert broken_links(site) == []


def test_broken_site_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#x">1</a><a href="b.html#y">2</a><img src="no.svg?v=1">')
    (tmp_path / "b.html").write_text('<p id="x"><a href="#x">1</a><a href="no.html">2</a><a href="https://a.b/c">3</a>')
    assert sorted(broken_links(tmp_path)) == ["a.html: b.html#y", "a.html: no.svg?v=1", "b.html: no.html"]


def outside_files(page):
    """Scripts, styles and pictures that a page loads from elsewhere."""
    return re.findall(r"<(?:script|link|img)\b[^>]*?(?:src|href)=\"(https?://[^\"]+)\"[^>]*>", page)


@pytest.mark.slow
def test_site_needs_no_network(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert [path.name for path, page in pages.items() if outside_files(page)] == []
    assert sum("mathjax/tex-chtml.js" in page for page in pages.values()) > 5
    assert outside_files('<script defer="defer" src="https://a.b/c.js"></script><a href="https://a.b">') == [
        "https://a.b/c.js"
    ]


@pytest.mark.slow
def test_headers_of_tables_have_text(site):
    pages = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert [name for name, page in pages.items() if re.search(r"<th[^>]*>(<p>\s*</p>)?</th>", page)] == []


@pytest.mark.slow
def test_pages_have_what_readers_look_for(site):
    """The version, links to the source of a page and of a function, and buttons that copy code."""
    front = (site / "index.html").read_text(encoding="utf-8")
    assert rnnx.__version__ in front
    assert "github.com/rnnx/rnnx/edit/main/docs/index.md" in front
    assert "copybutton.js" in front
    for page in ("installation", "changelog", "faq", "glossary", "gallery/index", "hand_written"):
        assert f'href="{page}.html"' in front, page
    assert "blob/main/rnnx/functional/lstm.py#L" in (site / "api" / "course_functions.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium")
def test_a_page_in_a_browser(site, tmp_path):
    """Equations are typeset from the site's own files, `site.js` completes the theme, and nothing fails on the way."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    options += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"]
    command = [BROWSER, *options, (site / "bptt.html").as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert result.stdout.count("<mjx-container") > 50
    assert "<mjx-merror" not in result.stdout
    for attribute in ('aria-level="2"', 'aria-label="Pages"', 'aria-label="On this page"', 'aria-label="This page"'):
        assert attribute in result.stdout
    assert [line for line in result.stderr.splitlines() if "CONSOLE" in line] == []


def documented(site):
    """Full names of the Python objects in the inventory of the site."""
    data = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(data.split(b"\n", 4)[4]).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


def public_names(module):
    """Names in `__all__`, or the functions and classes that a module defines without an underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


def lab_modules():
    """Public subpackages whose names `rnnx` itself does not export."""
    names = {module.name for module in pkgutil.iter_modules(rnnx.__path__)}
    core = {"cells", "engines", "functional"}
    return sorted(name for name in names - core - NOT_FOR_PROGRAMS if not name.startswith("_"))


@pytest.mark.slow
def test_site_documents_every_public_name(site):
    names = documented(site)
    packages = ["rnnx", *(f"rnnx.{module}" for module in lab_modules())]
    for name in rnnx.__all__:
        assert names & {f"{package}.{name}" for package in packages}, name
    for module_name in lab_modules():
        module = importlib.import_module(f"rnnx.{module_name}")
        for name in public_names(module):
            assert names & {f"rnnx.{name}", f"rnnx.{module_name}.{name}"}, f"{module_name}.{name}"
