"""Recognizes files that are not UTF-8 text by their first bytes."""

import codecs

_ENCODINGS = {  # byte order marks; UTF-32 first, because a mark of UTF-16 begins its mark
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_COMPRESSED = {b"\x1f\x8b": "a gzip", b"BZh": "a bzip2", b"\xfd7zXZ\0": "an xz", b"\x28\xb5\x2f\xfd": "a Zstandard"}
_COMPRESSED |= {b"7z\xbc\xaf\x27\x1c": "a 7z", b"Rar!\x1a\x07": "a RAR"}
_DOCUMENTS = {
    b"%PDF-": "a PDF document",
    b"{\\rtf": "an RTF document",
    b"\xd0\xcf\x11\xe0": "a Microsoft Office document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"SQLite format 3\0": "an SQLite database",
}
SIZE = 1024  # bytes that `foreign_format` needs


def foreign_format(head: bytes) -> str | None:
    """Return what a file is and what to do, given its first bytes, if it is recognizably not UTF-8 text."""

    def first(table: dict[bytes, str]) -> str | None:
        return next((name for mark, name in table.items() if head.startswith(mark)), None)

    if encoding := first(_ENCODINGS) or _zeros(head):
        return f"{encoding} text; convert it to UTF-8, for instance with: iconv -f {encoding} -t UTF-8"
    if name := first(_COMPRESSED):
        return f"{name} file; decompress it first"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "a zip file, or a document in one (docx, odt, epub, ...); extract its text first"
    if name := first(_DOCUMENTS):
        return f"{name}; export its text as UTF-8" if "document" in name else f"{name}, not a text"
    return None


def _zeros(head: bytes) -> str | None:
    """Return an encoding without a byte order mark, whose characters of the Latin alphabet contain zero bytes."""
    places = [head[k::4].count(0) * 8 > len(head) for k in range(4)]  # more than half of every fourth byte
    if sum(places) == 3:
        return "UTF-32"
    return "UTF-16" if places in ([True, False] * 2, [False, True] * 2) else None
