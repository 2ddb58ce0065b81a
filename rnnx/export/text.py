"""Numbers, names, arrays and comments as text of C."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

# The reserved words of C and C++, and names of the generated code.
_WORDS = """alignas alignof and asm auto bitand bitor bool break case catch char class compl const constexpr continue
decltype default delete do double else enum explicit export extern false float for friend goto if inline int long main
mutable namespace new noexcept not nullptr operator or private protected public register reinterpret_cast restrict
return short signed sizeof static static_assert static_cast struct switch template this throw true try typedef typeid
typename typeof union unsigned using virtual void volatile wchar_t while xor linux unix errno assert
g h i k n s t u x y w extra work next own block steps"""
_RESERVED = frozenset(_WORDS.split())
_LINE = 118


class Names:
    """Makes identifiers of names, each of them once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {*_RESERVED, *taken}

    def within(self) -> "Names":
        """Return a new namer for a scope within this one."""
        return Names(self._taken)

    def __call__(self, text: str) -> str:
        """Return an identifier like `text` that has not been returned before."""
        stem = identifier(text)
        name, k = stem, 1
        while name in self._taken:
            name, k = f"{stem}_{k}", k + 1
        self._taken.add(name)
        return name


def identifier(text: str) -> str:
    """Return an identifier of C and C++ like a text."""
    name = re.sub(r"_{2,}", "_", re.sub(r"\W", "_", text, flags=re.ASCII)).strip("_")
    return name if name[:1].isalpha() else f"m_{name}".strip("_")


def number(value: float) -> str:
    """Return a number as a constant of type float."""
    if not abs(value) <= np.finfo(np.float32).max:
        raise ValueError(f"a constant of a cell must be within the range of float32 for C; got {value!r}")
    return f"{float(value)!r}f"


def comment(text: str) -> str:
    """Return a text as it may stand in a comment."""
    return re.sub(r"[^ -~]", "?", text).replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def string(text: str) -> str:
    """Return a text as a string constant; other characters than ASCII's are UTF-8."""
    escaped = [chr(b) if 32 <= b < 127 else f"\\{b:03o}" for b in text.encode("utf-8")]
    return '"' + "".join("\\" + c if c in '"\\?' else c for c in escaped) + '"'


def function(head: str, lines: Sequence[str], about: str = "") -> str:
    """Return the definition of a function with these lines, after a comment."""
    return "\n".join([*[f"/* {comment(about)} */"] * bool(about), f"{head} {{", *indented(lines), "}"])


def array(kind: str, name: str, values: np.ndarray) -> str:
    """Return the definition of a constant array of "float" or "int8_t"."""
    if kind == "float":
        numbers = [f"{text}f" for text in map(str, np.asarray(values, np.float32).ravel())]
    else:
        numbers = list(map(str, values.ravel().tolist()))
    return f"static const ALIGNED {kind} {name}[{len(numbers)}] = {{\n{wrapped(numbers)}\n}};"


def wrapped(items: Iterable[str]) -> str:
    """Return items, separated by commas, in indented lines."""
    indent = "  "
    lines, line = [], indent
    for item in items:
        if len(line) + len(item) + 2 > _LINE and line != indent:
            lines.append(line.rstrip())
            line = indent
        line += item + ", "
    return "\n".join([*lines, line.rstrip(", ")])


def indented(lines: Sequence[str]) -> list[str]:
    """Return lines, indented."""
    return ["  " + line if line else line for line in lines]
