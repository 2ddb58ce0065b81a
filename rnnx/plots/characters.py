"""Characters in figures: visible white space, and escapes for missing glyphs."""

import contextlib
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import matplotlib
from matplotlib import font_manager

_VISIBLE = {"\n": "↵", " ": "␣", "\t": "⇥"}
BLANKS = frozenset(_VISIBLE.values())


def fonts(monospace: bool = False) -> list[str]:
    """Font families for text, including the user's; matplotlib uses the first that has the glyph."""
    families = [str(family) for family in matplotlib.rcParams["font.family"]]
    return ["monospace", *families] if monospace else families


def visible(characters: Iterable[str]) -> list[str]:
    """Make every character visible: white space as symbols, characters without a monospace glyph as escapes."""
    known = _known(True)
    return ["".join(_VISIBLE.get(c) or _printable(c, known) for c in token) for token in characters]


def printable(text: str) -> str:
    """Escape the characters of a name or title that have no glyph."""
    known = _known(False)
    return "".join(c if c == " " else _printable(c, known) for c in text)


def _printable(character: str, known: frozenset[int]) -> str:
    # Combining marks would attach to their neighbor; controls, surrogates and other white space would be invisible.
    if ord(character) in known and unicodedata.category(character)[0] not in "CMZ":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _known(monospace: bool) -> frozenset[int]:
    files = []
    for family in fonts(monospace):
        with contextlib.suppress(ValueError):  # font not installed
            properties = font_manager.FontProperties(family=[family])
            files.append(font_manager.findfont(properties, fallback_to_default=False))
    return frozenset().union(*map(_code_points, files or [font_manager.findfont("DejaVu Sans")]))


@lru_cache(maxsize=16)
def _code_points(path: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(path).get_charmap())


def check_length(name: str, text: Sequence[str], size: int) -> None:
    """Raise unless there is one character or token per step."""
    if len(text) != size:
        raise ValueError(f"`{name}` must have length {size}, one character or token per step; got {len(text)}")


def label_ticks(axis: Any, text: Sequence[str], every: int = 1) -> None:
    """Label every k-th tick with its character; long labels, such as escapes, are vertical on a horizontal axis."""
    labels = visible(list(text)[::every])
    axis.set_ticks(range(0, len(text), every), labels, fontfamily=fonts(True), parse_math=False)
    for tick, label in zip(axis.get_ticklabels(), labels, strict=True):
        if axis.axis_name == "x" and len(label) > 1:
            tick.set_rotation(90)
