"""rnnx against torch, JAX, onnxruntime, Keras and the course's loops, on this machine. Not run by asv.

``python asv_benchmarks/peers.py``                 a step of the LSTM in float32 against torch
``python asv_benchmarks/peers.py --all``           everything; hours
``python asv_benchmarks/peers.py --jobs inference --cells gru --peers jax --shapes 64,128,32,50 --threads one all``
``python asv_benchmarks/peers.py --plot FILE``     plot the ratios in an earlier ``--json`` file

Each side and shape has a process of its own. In a round, each side has a turn of a fifth of a second, whose result is
the median of its calls; a table has the medians of the rounds. The speed of a machine varies, so that ratios are those
of turns of the same round: the median over the rounds. Where other guests of the machine disturb most rounds, look at
the fastest turns: the ratio of the shortest time of each side. "Of floor" is the rate of the matrix products alone,
relative to the fastest product, which has turns as well. With one thread, the process is bound to one core. With
``--limit``, tables share the seconds, and each takes as many shapes as fit. The last table compares with the targets in
`peer_plan.py`.
"""

import argparse
import json
import os
import time
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
from peer_plan import BY_ARITHMETIC, OF_FLOOR, PLAN, by_arithmetic, targets
from peer_plot import draw
from peer_sides import SIDES
from product_rate import fastest_product, product, product_flops
from shared import added_mib, child, flops, geometric_mean, parsed_sizes, use_one_core, versions
from turns import medians_in_turn

FLOOR = "fastest product"
_MODULES = {"keras": "tensorflow", "rnnx_f": "rnnx", "course": "numpy"}  # of other peers, the name itself
_SUMMARY = ("table", "threads", "peer", "shapes", "geometric mean", "target", "worst", "target", "of floor", "peer's")
_SUMMARY += ("fastest turns: mean", "worst")


def timed(side, job, cell, dtype, size, one_thread):
    """Return a function that does the job once."""
    if one_thread:
        use_one_core()
    given = SIDES[side](cell, dtype, size)
    return given.stream() if job == "stream" else getattr(given, job)


def memory(side, cell, dtype, size, one_thread):
    """Return the MiB that five steps add to the process."""
    if one_thread:
        use_one_core()
    given = SIDES[side](cell, dtype, size)
    SIDES[side](cell, dtype, (2, 4, 2, 3)).step()  # loads and compiles everything
    return added_mib(lambda: [given.step() for _ in range(5)])


def fastest(dtype, one_thread):
    """Return which product is the fastest, and its FLOPs."""
    if one_thread:
        use_one_core()
    which = fastest_product(dtype)
    return which, product_flops(which)


def timed_product(dtype, which, one_thread):
    """Return a function that computes the product once."""
    if one_thread:
        use_one_core()
    return product(dtype, which)


@lru_cache
def floor(dtype, one_thread):
    """Return the result of `fastest`, measured once in a run."""
    return child("peers:fastest", dtype, one_thread, threads=1 if one_thread else None)


def run(table, sides, one_thread, rounds, until):
    """Return a dictionary (side, size) -> results of the rounds, for the sizes that were reached in time.

    The side `FLOOR` is the fastest product.
    """
    found = {}
    for size in table.sizes:
        if time.monotonic() > until:
            break
        given, threads = (table.cell, table.dtype, size, one_thread), 1 if one_thread else None
        if table.job == "memory":
            results = {
                side: [child("peers:memory", side, *given, threads=threads) for _ in range(rounds)] for side in sides
            }
        else:
            calls = {side: ("peers:timed", side, table.job, *given) for side in sides}
            calls[FLOOR] = ("peers:timed_product", table.dtype, floor(table.dtype, one_thread)[0], one_thread)
            results = medians_in_turn(calls, rounds, threads=threads)
        found |= {(side, size): values for side, values in results.items()}
    return found


class Results:
    """The results of a table: `ms`, the medians of the rounds by side and size, and `rates`, GFLOP/s of the product."""

    def __init__(self, table, sides, one_thread, runs):
        self.table, self.sides, self.one_thread, self.runs = table, sides, one_thread, runs
        self.sizes = [size for size in table.sizes if (sides[0], size) in runs]
        self.ms = {side: {size: float(np.median(runs[side, size])) for size in self.sizes} for side in sides}
        self.title, self.threads = f"{table.job}, {table.cell}, {table.dtype}", "one" if one_thread else "all"
        self.timed = table.job != "memory"
        self.product_flops = floor(table.dtype, one_thread)[1] if self.timed and self.sizes else None
        self.rates = [
            self.product_flops / ms / 1e6 for (side, _), all_ms in runs.items() if side == FLOOR for ms in all_ms
        ]

    def _ratio(self, side, other, size):
        """Return the median over the rounds of a time of one side divided by that of another in the same round."""
        return float(np.median(np.divide(self.runs[side, size], self.runs[other, size])))

    def ratios(self, peer):
        return [self._ratio(peer, self.sides[0], size) for size in self.sizes]

    def ratios_of_fastest(self, peer):
        """Return the shortest times of a peer divided by those of the first side."""
        return [min(self.runs[peer, size]) / min(self.runs[self.sides[0], size]) for size in self.sizes]

    def of_floor(self, side, sizes):
        """Return the rates of a side's products divided by that of the fastest one."""
        shares = {size: flops(*self.table[:2], size) / self.product_flops for size in sizes}
        return [share * self._ratio(FLOOR, side, size) for size, share in shares.items()]

    def print(self):
        """Print the table."""
        peers, unit = self.sides[1:], "ms" if self.timed else "MiB"
        print(f"\n**{self.title}, threads: {self.threads}**", end="")
        print(f"; fastest product {min(self.rates):.0f} to {max(self.rates):.0f} GFLOP/s\n" if self.rates else "\n")
        if len(self.sizes) < len(self.table.sizes):
            print(f"{len(self.sizes)} of {len(self.table.sizes)} shapes within the limit\n")
        titles = [f"{side} {unit}" for side in self.sides]
        titles += [f"{peer} / {self.sides[0]}" for peer in peers]
        columns = [[f"{ms:.4g}" for ms in self.ms[side].values()] for side in self.sides]
        columns += [[f"{ratio:.2f}" for ratio in self.ratios(peer)] for peer in peers]
        if self.timed:
            titles += [f"fastest turns: {peer} / {self.sides[0]}" for peer in peers]
            columns += [[f"{ratio:.2f}" for ratio in self.ratios_of_fastest(peer)] for peer in peers]
            titles += [f"of floor: {side}" for side in self.sides]
            columns += [[f"{share:.0%}" for share in self.of_floor(side, self.sizes)] for side in self.sides]
        print(f"| (n_x, n_a, m, T_x) | {' | '.join(titles)} |\n" + "|---" * (len(titles) + 1) + "|")
        for size, *row in zip(self.sizes, *columns, strict=True):
            print(f"| {size} | {' | '.join(row)} |", flush=True)

    def summary(self):
        """Return the rows of the summary."""
        large = [size for size in self.sizes if self.timed and by_arithmetic(size)]
        rows = []
        for peer in self.sides[1:] if self.sizes else []:
            ratios, (mean, worst) = self.ratios(peer), targets(self.table, peer, self.one_thread)
            fastest = self.ratios_of_fastest(peer) if self.timed else None
            shares = [geometric_mean(self.of_floor(side, large)) if large else None for side in (self.sides[0], peer)]
            values = len(ratios), geometric_mean(ratios), mean, min(ratios), worst, *shares
            values += (geometric_mean(fastest), min(fastest)) if fastest else (None, None)
            rows.append((self.title, self.threads, peer, *values))
        return rows

    def record(self):
        """Return what ``--json`` keeps."""
        table = {"job": self.table.job, "cell": self.table.cell, "dtype": self.table.dtype, "threads": self.threads}
        texts = {side: {str(size): ms for size, ms in found.items()} for side, found in self.ms.items()}
        ratios = {peer: dict(zip(map(str, self.sizes), self.ratios(peer), strict=True)) for peer in self.sides[1:]}
        turns = {side: {str(size): self.runs[side, size] for size in self.sizes} for side in self.sides}
        found = {"rates": self.rates, "turns": turns, "medians": texts, "ratios": ratios, "summary": self.summary()}
        return table | found


def print_summary(rows):
    """Print geometric means and worst ratios beside the targets, which are marked where they are missed."""
    print(f"\n**Summary**; shares of the floor at {BY_ARITHMETIC}, target {OF_FLOOR:.0%}; (!) misses the target\n")
    print(f"| {' | '.join(_SUMMARY)} |\n" + "|---" * len(_SUMMARY) + "|")
    for title, threads, peer, n, mean, mean_target, worst, worst_target, share, its_share, *of_fastest in rows:
        cells = [title, threads, peer, str(n)]
        for value, target in ((mean, mean_target), (worst, worst_target)):
            cells += [f"{value:.2f}{' (!)' if target and value < target else ''}", f"{target:.2f}" if target else ""]
        cells += ["" if share is None else f"{share:.0%}{' (!)' if share < OF_FLOOR else ''}"]
        cells += ["" if its_share is None else f"{its_share:.0%}"]
        cells += ["" if ratio is None else f"{ratio:.2f}" for ratio in of_fastest]
        print(f"| {' | '.join(cells)} |")


def chosen(options):
    """Return the tables that the options choose, each with its peers."""
    picked = options.all or options.jobs or options.cells or options.dtypes or options.peers
    tables = []
    for table in PLAN if picked else PLAN[:1]:
        given = zip((options.jobs, options.cells, options.dtypes), table, strict=False)
        wanted = options.peers or (table.peers if options.all else ("torch",))
        peers = [peer for peer in table.peers if peer in wanted and find_spec(_MODULES.get(peer, peer))]
        if peers and all(names is None or value in names for names, value in given):
            tables.append((table._replace(sizes=parsed_sizes(options.shapes) or table.sizes), peers))
    return tables


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every table and every installed peer")
    parser.add_argument("--jobs", nargs="+", choices=list(dict.fromkeys(table.job for table in PLAN)))
    parser.add_argument("--cells", nargs="+", choices=list(dict.fromkeys(table.cell for table in PLAN)))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"])
    parser.add_argument("--peers", nargs="+", choices=[side for side in SIDES if side not in ("rnnx", "rnnx_fixed")])
    parser.add_argument("--shapes", nargs="+", help="each as n_x,n_a,m,T_x")
    parser.add_argument("--threads", nargs="+", choices=["all", "one"], default=["all"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds for all tables together")
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--plot", nargs=2, metavar=("JSON", "PICTURE"))
    options = parser.parse_args()
    if options.plot:
        draw(*options.plot)
        return
    os.environ.pop("OPENBLAS_CORETYPE", None)  # the floor is the BLAS at its best
    print(versions())
    tables, start, work = [], time.monotonic(), 0
    plan = [(table, [table.own, *peers], how == "one") for table, peers in chosen(options) for how in options.threads]
    shares = [len(table.sizes) * len(sides) for table, sides, _ in plan]
    for (table, sides, one_thread), share in zip(plan, shares, strict=True):
        work += share
        runs = run(table, sides, one_thread, options.rounds, start + options.limit * work / sum(shares))
        results = Results(table, sides, one_thread, runs)
        results.print()
        tables.append(results.record())
        if options.json:
            with open(options.json, "w") as file:
                json.dump(tables, file)
    print_summary([row for table in tables for row in table["summary"]])


if __name__ == "__main__":
    main()
