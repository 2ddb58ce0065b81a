"""The documentation site: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``.

The build downloads nothing. It executes the notebook; ``-D nb_execution_mode=off`` skips that.
"""

from importlib.metadata import version as installed_version

project = "rnnx"
author = "The rnnx developers"
project_copyright = "The rnnx developers"
version = release = installed_version("rnnx")

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]

html_theme = "furo"
html_title = "rnnx"
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
