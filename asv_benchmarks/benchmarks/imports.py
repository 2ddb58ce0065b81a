"""The start of a new process: the import and the first call.

The methods return source code, (timed, untimed setup), that asv runs in a new interpreter per sample.
"""

import subprocess
import sys

from .common import Benchmark


class Import(Benchmark):
    """`import rnnx` must stay fast and import nothing optional."""

    def timeraw_import_rnnx(self):
        return "import rnnx"

    def timeraw_import_rnnx_after_numpy(self):
        return "import rnnx", "import numpy"


class FirstCall(Benchmark):
    """The first call on the CPU engine, for a cell with one stage and one with two."""

    param_names = ("cell",)
    params = (("lstm", "gru"),)
    warmup_time = 0.0
    repeat = (1, 3, 20.0)

    def setup(self, cell):
        subprocess.run([sys.executable, "-c", f"import rnnx; rnnx.warm_up({cell!r})"], check=True)

    def timeraw_with_nothing_on_disk(self, cell):
        """Compile everything."""
        return f"rnnx.warm_up({cell!r})", "import os; os.environ['RNNX_CACHE_DIR'] = ''; import rnnx"

    def timeraw_second_process(self, cell):
        """Load what `setup` compiled from the object cache."""
        return f"rnnx.warm_up({cell!r})", "import rnnx"
