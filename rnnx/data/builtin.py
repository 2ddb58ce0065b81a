"""Built-in texts, which need no download."""

from collections.abc import Callable
from importlib import resources

from rnnx.data.tokenizer import NEWLINE


def dinosaur_names() -> str:
    """Return dinosaur genus names, one per line."""
    return resources.files("rnnx").joinpath("data/texts/dinosaurs.txt").read_text(encoding="utf-8")


def python_prose() -> str:
    """Return Python's language help topics, sorted by title, about 465,000 characters.

    The text depends on the Python version. Raise ValueError if this installation lacks it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("this Python installation lacks its help texts (module pydoc_data.topics)") from None
    return NEWLINE.join(topics[title] for title in sorted(topics))


CORPORA: dict[str, Callable[[], str]] = {"dinos": dinosaur_names, "dinosaurs": dinosaur_names, "pydoc": python_prose}
