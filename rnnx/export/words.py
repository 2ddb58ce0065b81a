"""The sections of ``words.c``: the functions in C that exported models call."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from string import Template

from rnnx.cells import gaussian

# Bits of 1 / (2 pi).
_INVERSE = "28BE60DB 9391054A 7F09D5F4 7D4D3770 36D8A566 4F10E410 7F9458EA F7AEF158"


@cache
def _sections() -> dict[str, tuple[list[str], str]]:
    """Return the names that a section needs, and its text, by name, in an order in which they can be declared."""
    values = {
        "INVERSE": ", ".join(f"0x{word}u" for word in _INVERSE.split()),
        **_series("F", gaussian.F),
        **_series("TAYLOR", gaussian.TAYLOR),
    }
    text = Template(files("rnnx.export").joinpath("words.c").read_text(encoding="utf-8")).substitute(values)
    parts = re.split(r"^@(\w+):(.*)\n", text, flags=re.MULTILINE)[1:]
    return {
        name: (needs.split(), body.strip())
        for name, needs, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def _series(name: str, coefficients: list[float]) -> dict[str, str]:
    return {name: ", ".join(map(repr, coefficients)), f"{name}_LAST": str(len(coefficients) - 1)}


def source_of(words: Iterable[str]) -> str:
    """Return the source of these words of the vocabulary and other sections, with what they need."""
    sections, needed, todo = _sections(), set(), list(words)
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += sections[name][0]
    return "\n\n".join(text for name, (_, text) in sections.items() if name in needed)


@cache
def identifiers() -> frozenset[str]:
    """Return all identifiers in the sections."""
    code = re.sub(r"/\*.*?\*/", "", "".join(text for _, text in _sections().values()), flags=re.DOTALL)
    return frozenset(re.findall(r"[A-Za-z_]\w*", code))
