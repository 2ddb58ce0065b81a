"""The documentation site: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``.

The build downloads nothing. It executes the notebook and the pages of the gallery;
``-D nb_execution_mode=off`` skips that.
"""

import importlib
import inspect
from importlib.metadata import version as installed_version
from pathlib import Path

import rnnx

SOURCE = "https://github.com/rnnx/rnnx/"
project = "rnnx"
author = "The rnnx developers"
project_copyright = "The rnnx developers"
version = release = installed_version("rnnx")

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax's files, so that equations need no network
    "sphinx.ext.linkcode",  # links to the source
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",  # cards
]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"rnnx {version}"
html_theme_options = {
    # Links to a page's source and to edit it
    "source_repository": SOURCE,
    "source_branch": "main",
    "source_directory": "docs/",
}
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_favicon = "_static/icon.svg"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div:not(.output) > div.highlight pre"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

# In docstrings, `name` becomes a link if it can be imported, and code otherwise.
default_role = "autolink"
nitpicky = True
# Such a name need not resolve. Explicit roles (:func:, :class:, ...) must.
nitpick_ignore_regex = [("py:obj", ".*")]
autodoc_typehints = "none"  # numpydoc's sections have the types, with shapes
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False
numpydoc_show_inherited_class_members = False
autodoc_mock_imports = ["tensorflow", "keras", "torch", "jax"]  # autodoc needs none of them


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return the address of an object's source, if it is a function or class of Python."""
    value = importlib.import_module(info["module"]) if domain == "py" and info["module"] else None
    for name in info["fullname"].split("."):
        value = getattr(value, name, None)
    try:
        value = inspect.unwrap(value)
        lines, start = inspect.getsourcelines(value)
        path = Path(inspect.getfile(value)).relative_to(Path(rnnx.__file__).parents[1])
    except (TypeError, OSError, ValueError):
        return None
    return f"{SOURCE}blob/main/{path.as_posix()}#L{start}-L{start + len(lines) - 1}"
