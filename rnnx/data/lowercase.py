"""The lower case of a text given in chunks."""

from collections.abc import Iterable, Iterator

_LONGEST = 1000  # characters of a word; a longer one may be cut in the middle


class Lowercase:
    """The chunks of a text in lower case, which can be iterated as often as `chunks`.

    They join to what `str.lower` returns for the whole text. A capital sigma becomes another letter at the end of a
    word, so a chunk ends only after a character that ends a word, and the rest is added to the next one.
    """

    def __init__(self, chunks: Iterable[str]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[str]:
        rest = ""
        for chunk in self._chunks:
            text = rest + chunk
            places = range(len(text), max(0, len(text) - _LONGEST), -1)
            cut = next((at for at in places if _ends_a_word(text[at - 1])), len(text) if len(text) > _LONGEST else 0)
            rest = text[cut:]
            yield text[:cut].lower()
        yield rest.lower()


def _ends_a_word(character: str) -> bool:
    """Whether a sigma before the character is at the end of a word, whatever follows the character."""
    return f"aΣ{character}a".lower()[1] == "ς"
