"""The child processes of `gpu.py`, each with a time limit; they write rows to a file as they arrive."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NO_TIME = "no time was left"


class Runner:
    """Runs child processes until the time is up, and collects their rows."""

    def __init__(self, options, folder):
        self.options, self.folder, self.rows = options, Path(folder), []
        self.end = time.monotonic() + options["limit"]

    def child(self, function, limit, *arguments, name="", command=(), **environment):
        """Run a function from the files in this folder in a new process; return its rows. A failure adds a row."""
        name = name or " ".join([function, *map(str, arguments)])
        target = Path(tempfile.mkstemp(dir=self.folder)[1])
        given = json.dumps([function, self.options, arguments, str(target)])
        status, said = self.run(
            name, [*command, sys.executable, str(HERE / "gpu.py"), "--child", given], limit, **environment
        )
        rows = [json.loads(line) for line in target.read_text().splitlines()]
        if status == NO_TIME:
            rows.append(row(name, "skipped", status))
        elif status != 0:
            rows.append(row(name, "FAILED", f"{status}: {last_line(said)}"))
        return rows

    def add(self, *arguments, **keywords):
        """Collect the rows of a child."""
        self.rows += self.child(*arguments, **keywords)

    def run(self, name, command, limit, **environment):
        """Run a command; return its exit status, or why there is none, and its output."""
        limit = min(limit, self.end - time.monotonic())
        if limit < 5:
            return NO_TIME, ""
        print(f".. {name}", flush=True)
        started, log = time.monotonic(), Path(tempfile.mkstemp(dir=self.folder)[1])
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = f"stopped after {limit:.0f} s"
            finally:
                if process.poll() is None:  # including its own children
                    os.killpg(process.pid, signal.SIGKILL)
                    with contextlib.suppress(subprocess.TimeoutExpired):  # while the driver stops a kernel
                        process.wait(20)
        said = log.read_text(errors="replace")
        if status != 0:
            print(f"-- {name}: {status}\n{said[-3000:]}", flush=True)
        elif "Traceback" in said or "Warning" in said:
            print(f"-- {name}\n{said[-1500:]}", flush=True)
        print(f".. {name}: {time.monotonic() - started:.0f} s", flush=True)
        return status, said


def row(name, status, detail):
    return {"kind": "check", "name": name, "status": status, "detail": detail}


def last_line(said):
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")[:200]
