"""Every public `seed` and `rng` is checked under its name, before NumPy sees it."""

import importlib
import inspect

import numpy as np
import pytest
from public import PUBLIC

import rnnx
from rnnx import compare, course, data, models, training
from rnnx.functional.initialization import initialize_dense
from rnnx.optim import SGD

TEXT = "".join(f"line {n}\n" for n in range(30))
CHARACTERS = data.CharTokenizer(None).fit("abc\n")
PAIR = [np.array([0, 1]), np.array([1, 0, 1])]


def char_model(**options):
    return models.CharModel(4, 3, **options)


def stack():
    return models.SequenceRegressor(2, 3, seed=0).parts[0]


def sampled(seed):
    tokenizer = data.CharTokenizer(None).fit("abc\n")
    return models.sample(char_model(seed=0), tokenizer, seed=seed, max_length=3)


def trainer(seed):
    return training.Trainer(char_model(seed=0), SGD(0.1), seed=seed)


def course_sample(seed):
    return course.sample(course.initialize_parameters(3, 4, 4), {c: i for i, c in enumerate("abc\n")}, seed)


def comparison(seed):
    options = {"hidden_size": 3, "batch_size": 2, "seq_length": 4, "steps": 2}
    return compare.run("torch", dataset="dinos", seed=seed, **options)


# What takes a seed: `None` and generators only where that is documented.
GENERATORS = {
    "initialize_parameters": lambda seed: rnnx.initialize_parameters("lstm", 3, 4, seed=seed),
    "check_cell": lambda seed: rnnx.check_cell(
        "rnn", n_x=1, n_a=1, m=1, n_steps=1, engine_names=["reference"], seed=seed
    ),
    "models.CharModel": lambda seed: char_model(seed=seed),
    "models.CharModel, given parameters": lambda seed: char_model(seed=seed, parameters=char_model().parameters),
    "models.SequenceClassifier": lambda seed: models.SequenceClassifier(2, 3, 2, seed=seed),
    "models.SequenceRegressor": lambda seed: models.SequenceRegressor(2, 3, seed=seed),
    "models.Seq2Seq": lambda seed: models.Seq2Seq(4, 5, 3, seed=seed),
    "models.MultiTaskModel": lambda seed: models.MultiTaskModel(2, 3, {"a": models.Head(1)}, seed=seed),
    "models.MultiTaskModel.initialize": lambda seed: models.MultiTaskModel(2, 3, {"a": models.Head(1)}).initialize(
        seed=seed
    ),
    "models.CharModel.initialize": lambda seed: char_model().initialize(seed=seed),
    "models.SequenceClassifier.initialize": lambda seed: models.SequenceClassifier(2, 3, 2).initialize(seed=seed),
    "models.SequenceRegressor.initialize": lambda seed: models.SequenceRegressor(2, 3).initialize(seed=seed),
    "models.Seq2Seq.initialize": lambda seed: models.Seq2Seq(4, 5, 3).initialize(seed=seed),
    "models.Recurrent.initialize": lambda seed: stack().initialize(seed=seed),
    "models.CharModel.extended": lambda seed: char_model().extended(9, seed=seed),
    "data.split_by_group": lambda seed: data.split_by_group([0, 0, 1], seed=seed),
    "data.folds_by_group": lambda seed: data.folds_by_group([0, 0, 1], 2, seed=seed),
    "attention": lambda seed: models.Seq2Seq(4, 5, 3).attention.initialize(seed=seed),
    "models.sample": sampled,
    "CharModel.generate": lambda seed: char_model(seed=0).generate(
        data.CharTokenizer(None).fit("abc\n"), seed=seed, max_length=3
    ),
}
INTEGERS = {
    "data.make_corpus": lambda seed: data.make_corpus("lines", TEXT, by="lines", seed=seed),
    "data.make_corpus, windows": lambda seed: data.make_corpus("text", TEXT, by="windows", seed=seed),
    "training.Trainer": trainer,
    "training.learning_rate_range": lambda seed: training.learning_rate_range(
        char_model(), data.Lines([np.array([0, 1])], 2), steps=10, seed=seed
    ),
    "training.Settings": lambda seed: training.Settings(seed=seed),
    "course.sample": course_sample,
    "compare.run": comparison,
}
WRONG = [1.5, "a", b"1", -1, np.int64(-1), True, np.bool_(True), [1.5], (1, -2), [True], [], np.array([1.5]), {}]
WRONG += [np.float64(1), np.random, np.random.RandomState(0), object(), np.timedelta64(1)]
SEQUENCES = [[1], (1, 2), np.array([1, 2**60]), np.random.SeedSequence(0), np.random.PCG64(0)]
MASKS = [None, 3, 1.5, "a", [1], np.array([1]), (1.5,), (-1,), (True,), ("a",), ([1],), (None,), (0, -1)]


def _kind(value):
    return type(value).__name__


def check(function, seed, name="seed"):
    with pytest.raises((ValueError, TypeError), match=rf"^`{name}` must be [^\n]{{,150}}$"):
        function(seed)


@pytest.mark.parametrize("seed", WRONG, ids=_kind)
@pytest.mark.parametrize("function", [*GENERATORS.values(), *INTEGERS.values()], ids=[*GENERATORS, *INTEGERS])
def test_a_wrong_seed_is_named(function, seed):
    check(function, seed)


@pytest.mark.parametrize("seed", [None, np.random.default_rng(0), *SEQUENCES], ids=_kind)
@pytest.mark.parametrize("function", INTEGERS.values(), ids=INTEGERS)
def test_where_a_seed_is_an_integer(function, seed):
    check(function, seed)


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3), None, np.random.default_rng(3), 2**70], ids=_kind)
@pytest.mark.parametrize("function", GENERATORS.values(), ids=GENERATORS)
def test_seeds_and_generators(function, seed):
    function(seed)


@pytest.mark.parametrize("function", [f for name, f in INTEGERS.items() if name != "compare.run"])
def test_integers_of_numpy(function):
    function(np.int64(3))


def test_a_number_is_the_same_seed_in_any_type():
    drawn = [rnnx.initialize_parameters("rnn", 3, 4, seed=seed)["Wax"].tobytes() for seed in (7, np.uint8(7))]
    assert len({*drawn, rnnx.initialize_parameters("rnn", 3, 4, seed=np.random.default_rng(7))["Wax"].tobytes()}) == 1


@pytest.mark.parametrize("seed", MASKS, ids=_kind)
def test_masks(seed):
    check(models.Masks, seed)


SPEC_7 = {
    "initialize_parameters": lambda **rng: rnnx.initialize_parameters("lstm", 3, 4, **rng)["Wf"],
    "initialize_dense": lambda **rng: initialize_dense(3, 4, **rng)["Wy"],
    "CharModel": lambda **rng: char_model(**rng).parameters["Wf_l0"],
    "CharModel.extended": lambda **rng: char_model(seed=0).extended(9, **rng).parameters["Wy"],
    "SequenceClassifier": lambda **rng: models.SequenceClassifier(2, 3, 2, **rng).parameters["Wf_l0"],
    "Seq2Seq": lambda **rng: models.Seq2Seq(4, 5, 3, **rng).parameters["Wy"],
    "Model.initialize": lambda **rng: char_model(seed=0).initialize(**rng)["Wf_l0"],
    "attention": lambda **rng: models.Seq2Seq(4, 5, 3, seed=0).attention.initialize(**rng)["Wq_attention"],
    "sample": lambda **rng: models.sample(char_model(seed=0), CHARACTERS, max_length=30, n=5, **rng),
    "split_by_group": lambda **rng: data.split_by_group(range(20), **rng)[1],
    "folds_by_group": lambda **rng: data.folds_by_group(range(20), **rng),
    "check_cell": lambda **rng: rnnx.check_cell("rnn", n_x=1, m=1, n_steps=1, engine_names=["reference"], **rng),
}


@pytest.mark.parametrize("function", SPEC_7.values(), ids=SPEC_7)
def test_rng_under_both_names(function):
    """SPEC 7: `rng` is what `numpy.random.default_rng` takes; `seed` is its older name, and gives the same numbers."""
    result = function(rng=3)
    assert np.array_equal(result, function(seed=3))
    assert np.array_equal(result, function(rng=np.random.default_rng(3)))
    for rng in SEQUENCES:
        function(rng=rng)
    check(lambda rng: function(rng=rng), -1, "rng")
    check(lambda seed: function(seed=seed), -1)
    with pytest.raises(TypeError, match="`seed` is the older name of `rng`: pass one of them"):
        function(seed=1, rng=1)


def test_the_course_accepts_all_seeds_of_numpy():
    assert course_sample(2**32 - 101)
    check(course_sample, 2**32)


DATASETS = {
    "Lines": data.Lines([np.array([0, 1])], 2),
    "Windows": data.Windows(np.arange(9), 3),
    "Streams": data.Streams(np.arange(9), 3),
    "Examples": data.Examples(np.zeros((2, 3, 4)), np.zeros(3, int)),
    "Pairs": data.Pairs(PAIR, PAIR, end_token=2),
    "Items": data.Items([(np.ones((2, 3)), 0)] * 2),
    "SeriesStreams": data.SeriesStreams(np.ones((2, 9)), np.ones((1, 9)), 3),
    "MultiTaskExamples": data.MultiTaskExamples(np.zeros((2, 3, 4)), {"a": np.zeros(3, int)}),
    "SeriesWindows": data.SeriesWindows([data.Series(np.ones((1, 9)))], 3, 2),
}


@pytest.mark.parametrize("rng", [1, 1.5, "a", True, [1], np.random, np.random.RandomState(0)], ids=_kind)
def test_random_generators(rng):
    for dataset in DATASETS.values():
        check(lambda value, dataset=dataset: next(iter(dataset.batches(2, value))), rng, "rng")
    check(lambda value: models.draw(np.zeros((3, 2)), value), rng, "rng")
    check(lambda value: models.draw(np.zeros((3, 2)), value), None, "rng")


def test_no_public_seed_is_left_out():
    """Every public function, class and method with a parameter `seed` or `rng` is in a test above."""
    tested = {name for table in (GENERATORS, INTEGERS) for name in table}
    tested |= {"models.Masks", "models.draw", *(f"data.{name}.batches" for name in (*DATASETS, "Dataset"))}
    tested |= {f"models.{name}" for name in ("Model", "Model.initialize", "SequenceModel.initialize")}  # of others
    found = set()
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            entry = getattr(module, name)
            named = {name: entry}
            if inspect.isclass(entry):
                named |= {f"{name}.{key}": getattr(entry, key) for key in dir(entry) if not key.startswith("_")}
            for key, value in named.items():
                if callable(value) and {"seed", "rng"} & {*_parameters(value)}:
                    found.add(f"{package}.{key}".removeprefix("rnnx."))
    assert found <= tested


def _parameters(function):
    try:
        return inspect.signature(function).parameters
    except ValueError:  # of C
        return {}


@pytest.mark.parametrize("seed", ["1.5", "a", "-1", "True", "[1]", ""])
@pytest.mark.parametrize("command", ["train", "sample RUN", "evaluate RUN", "compare torch"])
def test_the_command_line(run, tmp_path, command, seed):
    code, _, err = run(*command.split(), f"--seed={seed}")
    assert code == 2
    assert "--seed" in err
    assert not (tmp_path / "runs").exists()


def test_a_huge_seed_on_the_command_line(run, tmp_path):
    code, _, err = run("train", "--seed", 10**30)
    assert (code, err.count("\n")) == (1, 1)
    assert "`seed` must be an integer below 2**63" in err
    assert not (tmp_path / "runs").exists()
