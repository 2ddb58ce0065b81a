"""Draw the schematic figures of the docs: `python docs/figures/schematics.py [FOLDER]`, by default into this folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import cells
import cells_backward
import sequences
from drawing import Drawing

FIGURES: dict[str, Callable[[], Drawing]] = {
    "rnn_cell": cells.rnn_cell,
    "lstm_cell": cells.lstm_cell,
    "gru_cell": cells.gru_cell,
    "gru_reset_after": cells.gru_reset_after,
    "rnn_cell_backward": cells_backward.rnn_cell_backward,
    "lstm_cell_backward": cells_backward.lstm_cell_backward,
    "unrolled": sequences.unrolled,
    "backward": sequences.backward,
    "lstm_over_time": sequences.lstm_over_time,
    "attention": sequences.attention,
}


def main(folder: Path) -> None:
    """Write every figure as SVG."""
    for name, draw in FIGURES.items():
        draw().save(folder / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
