"""What a fresh process waits for before it computes: the import, and the compilation of a cell.

The methods return source text, (timed, untimed before it), that asv runs in a new interpreter per sample.
"""

from .common import Benchmark


class Import(Benchmark):
    """`import rnnx` must stay quick and pull in no optional part."""

    def timeraw_import_rnnx(self):
        return "import rnnx"

    def timeraw_import_rnnx_after_numpy(self):
        return "import rnnx", "import numpy"


class Compile(Benchmark):
    """What the first call on the jit engine costs, for a cell of one stage and one of two."""

    param_names = ("cell",)
    params = (("lstm", "gru"),)
    warmup_time = 0.0  # one sample is enough: it takes seconds
    repeat = 1
    min_run_count = 1

    def timeraw_warm_up(self, cell):
        return f"rnnx.warm_up({cell!r})", "import rnnx"
