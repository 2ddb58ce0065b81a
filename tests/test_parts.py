"""Batches in shards: the same bits on any number of ranks, which are threads here."""

import signal
import sys
import time
import types

import array_api_strict as xp
import numpy as np
import pytest
from lab import NAMES, make_trainer
from problems import TOLERANCE, assert_close
from ranks import in_ranks

from rnnx.cli.interrupt import Interrupt
from rnnx.data import Examples
from rnnx.models import SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import NcclGroup, Run, Settings, Trainer, load_checkpoint, read_metrics
from rnnx.training.distributed import nccl
from rnnx.training.distributed.group import ALONE


def numbers(group, **options):
    """A trainer and a dataset of examples of different lengths and weights."""
    rng = np.random.default_rng(0)
    data = Examples(
        rng.standard_normal((2, 11, 5)),
        rng.standard_normal((1, 11)),
        lengths=rng.integers(1, 6, 11),
        weights=rng.random(11),
    )
    model = SequenceRegressor(2, 3, num_layers=2, dropout=0.3, seed=0)
    return data, Trainer(model, Adam(0.01), **{"clip_norm": 0.1, "shards": 5, "group": group, **options})


def result(trainer):
    """All numbers of a run."""
    values, arrays = trainer.state()
    return values, {name: np.array(a) for name, a in {**trainer.model.parameters, **arrays}.items()}


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, a in expected[1].items():
        np.testing.assert_array_equal(found[1][name], a, err_msg=name)


def trained_numbers(group, **options):
    """Frozen and averaged parameters too; the last batches have fewer examples than shards."""
    data, trainer = numbers(group, frozen=["bf_l0"], ema=0.9, **options)
    trainer.fit(data, data, epochs=2, batch_size=8)
    return result(trainer)


def trained_text(group, **options):
    model = {"num_layers": 2, "dropout": 0.2}
    corpus, trainer = make_trainer(by="streams", shards=5, group=group, model=model, **options)
    trainer.fit(corpus.train, corpus.validation, iterations=4, evaluate_every=2, batch_size=7)
    return result(trainer)


def trained_in_16_bits(group):
    return trained_text(group, precision="float16")


@pytest.mark.parametrize("train", [trained_numbers, trained_text, trained_in_16_bits])
def test_any_number_of_ranks_has_the_same_bits(train):
    (alone,) = in_ranks(1, train)
    for size in (2, 3, 5):
        for found in in_ranks(size, train):
            assert_same(found, alone)


@pytest.mark.parametrize("train", [trained_numbers, trained_text])
def test_the_fast_sum_is_close(train):
    (alone,) = in_ranks(1, train)
    for found in in_ranks(3, lambda group: train(group, reduce="fast")):
        for name, a in alone[1].items():
            assert_close(found[1][name], a, 10 * TOLERANCE["float32"], name)


def test_the_fast_sum_of_a_layer_begins_before_the_next_backward_pass():
    """One sum for the head and one for each layer, and none with segments, which have their gradients at the end."""
    for options, sums in (({}, 3), ({"segment_length": 3}, 1)):
        model = {"num_layers": 2}

        def train(group, options=options, model=model):
            corpus, trainer = make_trainer(by="streams", group=group, reduce="fast", model=model, **options)
            trainer.fit(corpus.train, iterations=1, batch_size=4)
            return dict(group.calls)

        assert in_ranks(2, train)[0]["sum"] == sums


def test_shards_are_micro_batches():
    """Up to rounding, the step of a batch in shards is that of the whole batch."""
    found = []
    for options in ({"shards": None}, {"shards": 3}, {"shards": None, "micro_batch_size": 4}):
        data, trainer = numbers(ALONE, clip_norm=None, **options)
        trainer.model.stack.dropout = 0.0
        trainer.fit(data, epochs=1, batch_size=12)
        found.append(trainer.model.parameters)
    for name, p in found[0].items():
        for other in found[1:]:
            assert_close(other[name], p, 10 * TOLERANCE["float32"], name)


def test_a_run_goes_on_with_other_ranks():
    """States of streams stay with their shards, and return to a trainer with any number of ranks."""

    def part(group, iterations, state=None):
        corpus, trainer = make_trainer(by="streams", shards=4, group=group, model={"num_layers": 2, "dropout": 0.2})
        if state is not None:
            values, arrays = state
            trainer.model.parameters = {name: arrays[name].copy() for name in trainer.model.parameters}
            trainer.restore(values, {k: a for k, a in arrays.items() if "/" in k})
        trainer.fit(corpus.train, corpus.validation, iterations=iterations, batch_size=6)
        return result(trainer)

    (whole,) = in_ranks(1, lambda group: part(group, 6))
    begun = in_ranks(3, lambda group: part(group, 3))[2]
    for size in (1, 2):
        assert_same(in_ranks(size, lambda group: part(group, 6, begun))[0], whole)


@pytest.mark.parametrize("size", [1, 2])
def test_a_loss_that_is_not_finite_stops_all_ranks(size):
    def train(group):
        data, trainer = numbers(group, shards=2)
        trainer.model.parameters["by"][:] = np.nan
        with pytest.raises(FloatingPointError, match="the loss is nan at step 1") as error:
            trainer.fit(data, epochs=1, batch_size=8)
        with pytest.raises(FloatingPointError, match="the loss of batch 1 is nan"):
            trainer.evaluate(data, 8)
        return str(error.value)

    assert len(set(in_ranks(size, train))) == 1


def test_a_callback_of_one_rank_stops_all():
    def train(group):
        data, trainer = numbers(group)
        trainer.fit(
            data, epochs=9, batch_size=8, callbacks=[lambda _, progress: group.rank == 1 and progress.step == 2]
        )
        return trainer.step

    assert in_ranks(3, train) == [2, 2, 2]


def test_ranks_must_be_alike():
    def different(what):
        def train(group):
            data, trainer = numbers(group, **({"seed": group.rank} if what == "seed" else {}))
            if what == "parameters":
                trainer.model.parameters["by"] += group.rank
            with pytest.raises(ValueError, match=f"{what}`? must be the same on all ranks; got .* on rank 1, not "):
                trainer.fit(data, epochs=1, batch_size=8 + (what == "batch_size") * group.rank)

        return train

    for what in ("seed", "parameters", "batch_size"):
        in_ranks(2, different(what))


def test_messages():
    group = in_ranks(3, lambda group: group)[0]
    for options, error, message in (
        ({"shards": 0}, ValueError, "`shards` must be an integer of at least 1; got 0"),
        ({"shards": 2, "group": group}, ValueError, "`shards` must be at least the number of ranks, 3; got 2"),
        ({"shards": 2, "micro_batch_size": 2}, ValueError, "`micro_batch_size` is for one rank without `shards`"),
        ({"group": 3}, TypeError, "`group` must be a rnnx.training.MpiGroup, or have its methods"),
        ({"reduce": "fastest"}, ValueError, r"`reduce` must be one of .*; got 'fastest'"),
    ):
        with pytest.raises(error, match=message):
            Trainer(SequenceRegressor(1, 2, seed=0), Adam(), **options)
    data, trainer = numbers(in_ranks(1, lambda group: group)[0])
    with pytest.raises(ValueError, match="`shards` must be at most `batch_size` = 4; got 5"):
        trainer.fit(data, epochs=1, batch_size=4)


# --- runs --------------------------------------------------------------------------------------------------------


def settings(tmp_path, **options):
    given = {"hidden_size": (5,), "batch_size": 4, "iterations": 4, "epochs": None, "by": "streams", "seq_length": 7}
    given |= {"text": str(tmp_path / "names.txt"), "dropout": 0.2, "num_layers": 2}
    return Settings(**{**given, **options})


def test_rank_0_writes_and_all_ranks_load(tmp_path):
    (tmp_path / "names.txt").write_text(NAMES)

    def whole(group):
        list(Run.start(tmp_path / str(group.size), settings(tmp_path, shards=3), group=group).train(save_every=0))

    def part(group):
        list(Run.start(tmp_path / "part", settings(tmp_path, shards=3, iterations=2), group=group).train())

    def resumed(group):
        list(Run.resume(tmp_path / "part", iterations=4, group=group).train())

    in_ranks(1, whole)
    in_ranks(3, whole)
    in_ranks(3, part)
    in_ranks(2, resumed)
    expected = load_checkpoint(tmp_path / "1")
    for name in ("3", "part"):
        found = load_checkpoint(tmp_path / name)
        assert found.training["counters"] == expected.training["counters"]
        for arrays, others in ((found.arrays, expected.arrays), (found.model.parameters, expected.model.parameters)):
            assert arrays.keys() == others.keys()
            assert all(np.array_equal(arrays[key], others[key]) for key in arrays)
        losses, others = (
            [record["loss"] for record in read_metrics(tmp_path / folder) if record["validation_loss"] is None]
            for folder in (name, "1")
        )
        assert losses == others


def test_an_error_of_one_rank_is_one_of_all(tmp_path):
    (tmp_path / "names.txt").write_text(NAMES)

    def start(group):
        own = settings(tmp_path, **({"text": "missing.txt"} if group.rank == 1 else {}))
        with pytest.raises(ValueError, match=r"^rank 1: .*missing\.txt: No such file or directory"):
            Run.start(tmp_path / "run", own, group=group)

    def other(group):
        with pytest.raises(ValueError, match=r"`dropout` must be the same on all ranks; got 0\.1 on rank 1, not 0\.2"):
            Run.start(tmp_path / "run", settings(tmp_path, **({"dropout": 0.1} if group.rank else {})), group=group)

    in_ranks(2, start)
    in_ranks(2, other)
    assert not (tmp_path / "run").exists()

    def few(group):
        with pytest.raises(ValueError, match="`shards` must be at least the number of ranks, 3; got 2"):
            Run.resume(tmp_path / "run", group=group)

    def none(group):
        with pytest.raises(
            ValueError, match="a run that was started without `shards` resumes on one rank; got 2 ranks"
        ):
            Run.resume(tmp_path / "alone", group=group)

    in_ranks(2, lambda group: list(Run.start(tmp_path / "run", settings(tmp_path), group=group).train()))
    list(Run.start(tmp_path / "alone", settings(tmp_path)).train())
    in_ranks(3, few)
    in_ranks(2, none)


# --- NCCL --------------------------------------------------------------------------------------------------------


class Communicator:
    """Stands for that of nccl4py: between threads, with arrays of array-api-strict."""

    def __init__(self, group, shared):
        self._group = group
        assert group.collect(shared) == [b"id of rank 0"] * group.size

    def alltoall(self, sent, found, *, stream):
        assert stream == "current"
        found[...] = xp.asarray(self._group.exchange(np.from_dlpack(sent)))

    def allgather(self, sent, found, *, stream):
        assert stream == "current"
        found[...] = xp.asarray(self._group.gather(np.from_dlpack(sent)))

    def allreduce(self, sent, found, op, *, stream):
        assert (op, stream) == ("sum", "side")
        found[...] = xp.asarray(self._group.start_sum(np.from_dlpack(sent))())


class Stream:
    """Stands for a CUDA stream; an event is the stream that recorded it."""

    def __init__(self, name):
        self.ptr, self.waits = name, []

    def record(self):
        return self.ptr

    def wait_event(self, event):
        self.waits.append(event)


@pytest.mark.parametrize("reduce", ["ordered", "fast"])
def test_gpus_exchange_their_arrays_by_nccl(monkeypatch, reduce):
    current, groups = Stream("current"), {}
    core = types.SimpleNamespace(
        get_unique_id=lambda: b"id of rank 0",
        UniqueId=types.SimpleNamespace(from_bytes=bytes),
        Communicator=types.SimpleNamespace(init=lambda size, rank, shared: Communicator(groups[rank], shared)),
        SUM="sum",
    )
    cuda = types.SimpleNamespace(get_current_stream=lambda: current, Stream=lambda non_blocking: Stream("side"))
    monkeypatch.setattr(nccl, "_cuda", lambda array: cuda)
    monkeypatch.setattr(nccl, "nccl_library", lambda: core)

    def train(group):
        groups[group.rank] = group
        gpus = ALONE if group.size == 1 else NcclGroup(group)
        corpus, trainer = make_trainer(by="streams", shards=3, group=gpus, reduce=reduce, model={"xp": xp})
        trainer.fit(corpus.train, corpus.validation, iterations=3, batch_size=6)
        return result(trainer)

    (alone,) = in_ranks(1, train)
    for found in in_ranks(2, train):
        if reduce == "ordered":
            assert_same(found, alone)
        else:
            assert current.waits
            for name, a in alone[1].items():
                assert_close(found[1][name], a, 10 * TOLERANCE["float32"], name)


def test_without_nccl(monkeypatch):
    monkeypatch.setitem(sys.modules, "nccl.core", None)
    with pytest.raises(ImportError, match="groups of GPUs need nccl4py: pip install"):
        NcclGroup(in_ranks(1, lambda group: group)[0])


def test_a_signal_that_comes_while_ranks_agree_is_kept():
    interrupt = Interrupt()

    class Late:
        size = 2

        def gather(self, row):
            interrupt._request(signal.SIGINT, None)
            return np.stack([row, 0 * row])

    assert not interrupt.agree(Late())
    assert interrupt.requested
    assert interrupt.agree(ALONE)


def test_signals_in_a_burst_interrupt_once(monkeypatch):
    """Otherwise one of them interrupts the way out, which leaves the handlers in place."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left, Interrupt():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        now = 2.0
        signal.raise_signal(signal.SIGTERM)
    assert left.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_signal_interrupts_the_way_out(monkeypatch):
    change, before = signal.signal, signal.getsignal(signal.SIGTERM)

    def interrupted(number, handler):
        if handler != interrupt._request:
            interrupt._request(number, None)
        return change(number, handler)

    interrupt = Interrupt()
    with interrupt:
        interrupt._request(signal.SIGTERM, None)
        monkeypatch.setattr(signal, "signal", interrupted)
    assert signal.getsignal(signal.SIGTERM) == before
