"""Texts to learn: the built-in names, files, and their split into a part to learn and a part held out."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from rnnx.text import NEWLINE, CharTokenizer, Lines, Windows


@dataclass(frozen=True)
class Corpus:
    """A text as datasets for training and validation.

    Attributes
    ----------
    name : str
    by : str
        "lines" or "windows".
    tokenizer : CharTokenizer
    train, validation : Lines or Windows
    split : str
        In words, how the validation part was chosen: losses of different splits are not comparable.
    """

    name: str
    by: str
    tokenizer: CharTokenizer
    train: Lines | Windows
    validation: Lines | Windows
    split: str


def dinosaur_names() -> str:
    """The built-in corpus: genus names of dinosaurs, one per line."""
    return resources.files("rnnx").joinpath("data/dinosaurs.txt").read_text(encoding="utf-8")


def read_text(path: str | Path) -> str:
    """A UTF-8 text file, line ends as newlines.

    Raises
    ------
    ValueError
        If it is empty, or not UTF-8; says where.
    OSError
        If it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}, line {line}"
        ) from None
    text = text.replace("\r\n", NEWLINE).replace("\r", NEWLINE)
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text


def make_corpus(name: str, text: str, *, by: str = "auto", length: int = 64, seed: int = 0) -> Corpus:
    """Datasets of a text.

    Parameters
    ----------
    name : str
        For messages and file names.
    text : str
    by : {"auto", "lines", "windows"}
        "lines": every non-empty line is a sequence, a random tenth of them is held out. "windows": the text
        is one sequence, cut into windows, and its last tenth is held out. "auto": lines if there are at
        least 20 of them, none longer than 64 characters and nine of ten not followed by a blank one.
    length : int
        Steps of a window.
    seed : int
        For the choice of lines.

    Raises
    ------
    ValueError
        If the text is too short to hold something out.
    """
    lines = [line for line in text.split(NEWLINE) if line.strip()]
    if by == "auto":
        blank = sum(not line.strip() for line in text.strip(NEWLINE).split(NEWLINE))
        is_list = len(lines) >= 20 and max(map(len, lines)) <= 64 and blank * 10 <= len(lines)
        by = "lines" if is_list else "windows"
    if by == "lines":
        if len(lines) < 2:
            raise ValueError(f"{name} must have at least 2 lines to train on one and hold one out; got {len(lines)}")
        tokenizer = CharTokenizer().fit([NEWLINE, *lines])
        newline = int(tokenizer.encode(NEWLINE)[0])
        order = np.random.default_rng(seed).permutation(len(lines))
        held_out = max(1, len(lines) // 10)
        sequences = tokenizer.texts_to_sequences([lines[i] for i in order])
        split = f"{held_out} of {len(lines)} lines held out at random"
        train, validation = Lines(sequences[held_out:], newline), Lines(sequences[:held_out], newline)
        return Corpus(name, by, tokenizer, train, validation, split)
    if by != "windows":
        raise ValueError(f"`by` must be 'auto', 'lines' or 'windows'; got {by!r}")
    if len(text) < 20:
        raise ValueError(f"{name} must have at least 20 characters; got {len(text)}")
    tokenizer = CharTokenizer().fit(text)
    indices = tokenizer.encode(text)
    cut = len(indices) - max(2, len(indices) // 10)
    split = f"last {len(indices) - cut} of {len(indices)} characters held out"
    return Corpus(name, by, tokenizer, Windows(indices[:cut], length), Windows(indices[cut:], length), split)
