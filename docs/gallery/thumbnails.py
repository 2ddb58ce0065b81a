"""Regenerate the thumbnails of the gallery: ``python docs/gallery/thumbnails.py [NAME ...]``."""

import re
import sys
import time
from pathlib import Path
from typing import Any

from rnnx import plots

HERE = Path(__file__).parent
PIXELS = 360  # of the width


def run(page: Path) -> dict[str, Any]:
    """Run the code cells of a page, and return its names; its picture is `figure`."""
    scope: dict[str, Any] = {"__name__": "page"}
    text = page.read_text(encoding="utf-8")
    for cell in re.finditer(r"^```\{code-cell\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, cell.start(1))
        exec(compile("\n" * line + cell[1], str(page), "exec"), scope)
    return scope


def main(names: list[str]) -> None:
    """Write the thumbnails of some pages, by default of all, and print how long each page takes."""
    for name in names or sorted(page.stem for page in HERE.glob("*.md") if page.stem != "index"):
        started = time.perf_counter()
        figure = run(HERE / f"{name}.md")["figure"]
        print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
        dpi = round(PIXELS / figure.get_figwidth())
        plots.save(figure, HERE / "thumbnails" / f"{name}.png", dpi=dpi)


if __name__ == "__main__":
    main(sys.argv[1:])
