"""Texts by name: built in, in the folder ``data``, or downloaded."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from rnnx._core.words import shown
from rnnx.data.downloads import SOURCES, downloaded
from rnnx.data.tokenizer import NEWLINE

_FOLDER = Path("data")  # in the current folder
_MOST_LISTED = 20


def dinosaur_names() -> str:
    """Return dinosaur genus names, one per line.

    See Also
    --------
    make_corpus, python_prose, CORPORA

    Examples
    --------
    >>> from rnnx.data import dinosaur_names
    >>> names = dinosaur_names().splitlines()
    >>> len(names) > 1000, names[:2]
    (True, ['Aardonyx', 'Abdarainurus'])
    """
    return resources.files("rnnx").joinpath("data/texts/dinosaurs.txt").read_text(encoding="utf-8")


def python_prose() -> str:
    """Return Python's language help topics, sorted by title, about 465,000 characters.

    The text depends on the Python version. Raise ValueError if this installation lacks it.

    See Also
    --------
    make_corpus, dinosaur_names, CORPORA

    Examples
    --------
    >>> from rnnx.data import python_prose
    >>> text = python_prose()
    >>> len(text) > 400_000, "generator" in text
    (True, True)
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("this Python installation lacks its help texts (module pydoc_data.topics)") from None
    return NEWLINE.join(topics[title] for title in sorted(topics))


CORPORA: dict[str, Callable[[], str]] = {"dinos": dinosaur_names, "dinosaurs": dinosaur_names, "pydoc": python_prose}


def find_text(name: str) -> str | Path:
    """Return a text by its name on the command line.

    Parameters
    ----------
    name : str
        In this order: a name in `CORPORA`; the name of a file ``data/NAME.txt`` in the current folder, without the
        ending; "shakespeare", which is downloaded once into the user's data folder (or ``RNNX_DATA_DIR``).

    Returns
    -------
    str or Path
        A built-in text, or the path of a UTF-8 file.

    Raises
    ------
    ValueError
        If there is no such text; the message lists those that there are. Also if a download has a wrong checksum.
    OSError, ImportError
        If a text cannot be downloaded, or pooch is not installed.

    See Also
    --------
    CORPORA, make_corpus

    Examples
    --------
    >>> from pathlib import Path
    >>> from rnnx.data import find_text
    >>> Path("data").mkdir()
    >>> _ = Path("data/poems.txt").write_text("tyger tyger, burning bright")
    >>> find_text("poems").name, find_text("dinos").splitlines()[0]
    ('poems.txt', 'Aardonyx')
    """
    if name in CORPORA:
        return CORPORA[name]()
    if (file := file_in_data(name)) is not None:
        return file
    if name in SOURCES:
        return downloaded(name)
    files = sorted(path.stem for path in _FOLDER.glob("*.txt") if file_in_data(path.stem))
    known = f"{', '.join(CORPORA)} (built in), {', '.join(SOURCES)} (downloaded)"
    if files:
        more = ", ..." if len(files) > _MOST_LISTED else ""
        known += f", {', '.join(files[:_MOST_LISTED])}{more} ({_FOLDER}/*.txt)"
    raise ValueError(f"there is no dataset {shown(name)}; available: {known}. Add your own as {_FOLDER}/NAME.txt")


def file_in_data(name: str) -> Path | None:
    """Return the absolute path of ``data/NAME.txt``; None if it does not exist, or a built-in text has the name."""
    file = _FOLDER / f"{name}.txt"
    found = name not in CORPORA and Path(name).name == name and file.is_file()
    return file.absolute() if found else None
