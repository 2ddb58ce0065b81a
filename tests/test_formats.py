"""Files that are recognizably not UTF-8 text: the error says what they are and what to do."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from rnnx.data import encode_file, make_corpus, open_text, read_text

TEXT = "It was a dark and stormy night; the rain fell in torrents.\n" * 30


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.txt", TEXT)
    return out.getvalue()


FILES = {
    "utf-16": (TEXT.encode("utf-16"), r"is UTF-16 text; convert it to UTF-8, for instance with: iconv -f UTF-16"),
    "utf-16-le": (TEXT.encode("utf-16-le"), "is UTF-16 text"),
    "utf-16-be": (TEXT.encode("utf-16-be"), "is UTF-16 text"),
    "utf-16-be with a mark": (("\ufeff" + TEXT).encode("utf-16-be"), "is UTF-16 text"),
    "short utf-16": ("hi".encode("utf-16-le"), "is UTF-16 text"),
    "utf-32": (TEXT.encode("utf-32"), "is UTF-32 text"),
    "utf-32-le": (TEXT.encode("utf-32-le"), "is UTF-32 text"),
    "utf-32-be": (TEXT.encode("utf-32-be"), "is UTF-32 text"),
    "gzip": (gzip.compress(TEXT.encode()), "is a gzip file; decompress it first"),
    "bzip2": (bz2.compress(TEXT.encode()), "is a bzip2 file; decompress"),
    "xz": (lzma.compress(TEXT.encode()), "is an xz file; decompress"),
    "zip": (zipped(), r"is a zip file, or a document in one \(docx, odt, epub, ...\); extract its text"),
    "pdf": (b"%PDF-1.4\n" + TEXT.encode(), "is a PDF document; export its text as UTF-8"),
    "rtf": (b"{\\rtf1\\ansi " + TEXT.encode(), "is an RTF document; export"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG image, not a text"),
    "latin-1": (("caf\u00e9 " + TEXT).encode("latin-1"), "byte 0xe9 at offset 3, line 1$"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_formats(tmp_path, name):
    data, message = FILES[name]
    path = tmp_path / "t.txt"
    path.write_bytes(data)
    for read in (open_text, read_text, encode_file, lambda path: make_corpus("t", path)):
        with pytest.raises(ValueError, match=r"t.txt .*" + message) as info:
            for _ in read(path):
                pass
        assert "\n" not in str(info.value)


def test_the_command_line_says_it(run, tmp_path):
    (tmp_path / "t.txt").write_bytes(TEXT.encode("utf-16"))
    assert run("train", "--text", "t.txt")[1:] == (
        "",
        "Error: t.txt is UTF-16 text; convert it to UTF-8, for instance with: iconv -f UTF-16 -t UTF-8\n",
    )


@pytest.mark.parametrize("text", [TEXT, "\ufeff" + TEXT, "BZ " + TEXT, "PK" + TEXT, "a\0b" + TEXT, "\u0431\u044b" * 30])
def test_texts_are_read(tmp_path, text):
    (tmp_path / "t.txt").write_bytes(text.encode("utf-8"))
    assert read_text(tmp_path / "t.txt") == text.removeprefix("\ufeff")
