"""The sequence-to-sequence model: gradients, padding, prediction, and a learned task."""

import tracemalloc

import numpy as np
import pytest
from conftest import to_numpy
from problems import TOLERANCE, assert_close, numeric_gradient

import rnnx
from rnnx.data import CharTokenizer, PairBatch, Pairs
from rnnx.models import CharModel, Masks, Seq2Seq

ATTENTIONS = ["additive", "dot", "scaled_dot", None]
SOURCE_VOCAB, TARGET_VOCAB = 5, 4


def random_batch(rng, m=3, n_source=4, n_target=3, source_lengths=(4, 1, 3), target_lengths=(2, 3, 1)):
    source = rng.integers(0, SOURCE_VOCAB, (m, n_source))
    target_in, target_out = rng.integers(0, TARGET_VOCAB, (2, m, n_target))
    return PairBatch(source, np.array(source_lengths), target_in, target_out, np.array(target_lengths))


def random_model(rng, hidden_size=3, **options):
    """A float64 model with parameters of scale 1, because small parameters hide errors."""
    model = Seq2Seq(SOURCE_VOCAB, TARGET_VOCAB, hidden_size, dtype="float64", seed=0, **options)
    model.parameters = {name: rng.standard_normal(p.shape) for name, p in model.parameters.items()}
    return model


def slope(f, a, direction, step=1e-6):
    """Central difference of f() along a direction of the array `a`, which f reads."""
    kept = a.copy()
    a[...] = kept + step * direction
    above = f()
    a[...] = kept - step * direction
    below = f()
    a[...] = kept
    return (above - below) / (2 * step)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru_reset_after"])
def test_gradients(cell, attention, bidirectional, rng):
    model = random_model(
        rng,
        cell=cell.removesuffix("_reset_after"),
        reset_after=cell.endswith("after"),
        attention=attention,
        bidirectional_encoder=bidirectional,
    )
    batch = random_batch(rng)
    loss, gradients = model.loss_and_gradients(batch)
    assert loss == pytest.approx(model.loss(batch), rel=1e-14)
    assert gradients.keys() == {"d" + name for name in model.parameters}
    for name, parameter in model.parameters.items():
        # A direction that is half gradient and half random. Central differences have an error of 1e-9 themselves.
        gradient, anything = gradients["d" + name], rng.standard_normal(parameter.shape)
        norm = np.linalg.norm(gradient)
        assert norm > 1e-6, name
        direction = gradient / norm + anything / np.linalg.norm(anything)
        numeric = slope(lambda: model.loss(batch), parameter, direction)
        assert numeric == pytest.approx(np.sum(gradient * direction), rel=TOLERANCE["gradient"], abs=2e-9), name


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_gradients_of_layers_with_dropout(attention, rng):
    model = random_model(rng, hidden_size=[4, 3], attention=attention, dropout=0.4)
    batch, masks = random_batch(rng), Masks((7, 1))

    def loss():
        z, _, _ = model.forward(
            batch.source,
            batch.target_in,
            source_lengths=batch.source_lengths,
            target_lengths=batch.lengths,
            masks=masks,
        )
        return float(rnnx.softmax_cross_entropy(z, batch.target_out, lengths=batch.lengths)[0])

    value, gradients = model.loss_and_gradients(batch, masks=masks)
    assert value == pytest.approx(loss(), rel=1e-14)
    for stack in (model.encoder, model.decoder):  # both have dropout
        stack.dropout = 0.0
        assert value != pytest.approx(loss(), rel=1e-6)
        stack.dropout = 0.4
    for name in ("bf_encoder_l0", "bi_encoder_l1_reverse", "bo_decoder_l0", "bc_decoder_l1", "ba_bridge_l0", "by"):
        assert_close(gradients["d" + name], numeric_gradient(loss, model.parameters[name]), 1e-5, name)


@pytest.mark.parametrize("attention", ["additive", "scaled_dot", None])
def test_against_torch(attention, rng):
    """Two bidirectional LSTM layers with the same weights in torch, and torch operations after them."""
    torch = pytest.importorskip("torch")
    model = random_model(rng, hidden_size=3, num_layers=2, attention=attention)
    m, n_source, n_target = 4, 6, 5
    batch = random_batch(rng, m, n_source, n_target, [n_source] * m, [5, 2, 1, 4])
    p = {name: torch.tensor(a, requires_grad=True) for name, a in model.parameters.items()}

    def lstm(stack, x, states):
        outs, final = torch.nn.functional.one_hot(torch.tensor(x), stack.input_size).double(), {}
        for layer in stack.layers:
            sides = []
            for one in layer:
                h = states.get("a" + one.suffix, torch.zeros(m, one.hidden_size).double())
                c = states.get("c" + one.suffix, torch.zeros(m, one.hidden_size).double())
                side = []
                for t in range(x.shape[1])[:: -1 if one.reverse else 1]:
                    both = torch.cat([h, outs[:, t]], 1)
                    f, i, g, o = (both @ p[f"W{k}{one.suffix}"].T + p[f"b{k}{one.suffix}"][:, 0] for k in "fico")
                    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                    h = torch.sigmoid(o) * torch.tanh(c)
                    side.append(h)
                final |= {"a" + one.suffix: h, "c" + one.suffix: c}
                sides.append(torch.stack(side[:: -1 if one.reverse else 1], 1))
            outs = torch.cat(sides, 2)
        return outs, final

    encoded, final = lstm(model.encoder, batch.source, {})
    states = {}
    for k in (0, 1):
        for s in "ac":
            both = torch.cat([final[f"{s}_encoder_l{k}"], final[f"{s}_encoder_l{k}_reverse"]], 1)
            states[f"{s}_decoder_l{k}"] = torch.tanh(both @ p[f"W{s}_bridge_l{k}"].T + p[f"b{s}_bridge_l{k}"][:, 0])
    out, _ = lstm(model.decoder, batch.target_in, states)
    if attention is not None:
        keys = encoded @ p["Wk_attention"].T
        if attention == "additive":
            queries = out @ p["Wq_attention"].T + p["ba_attention"][:, 0]
            scores = torch.tanh(queries[:, :, None] + keys[:, None]) @ p["va_attention"][:, 0]
        else:
            scores = out @ keys.mT / np.sqrt(3)
        context = torch.softmax(scores, 2) @ encoded
        out = torch.tanh(torch.cat([context, out], 2) @ p["Wc_attention"].T + p["bc_attention"][:, 0])
    z = out @ p["Wy"].T + p["by"][:, 0]
    valid = torch.arange(n_target) < torch.tensor(batch.lengths)[:, None]
    theirs = torch.nn.functional.cross_entropy(z[valid], torch.tensor(batch.target_out)[valid])
    theirs.backward()

    loss, gradients = model.loss_and_gradients(batch)
    assert loss == pytest.approx(float(theirs.detach()), rel=1e-12)
    for name, tensor in p.items():
        assert_close(gradients["d" + name], tensor.grad.numpy(), TOLERANCE["oracle"], name)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_has_no_effect(attention, rng):
    """The loss of a batch is the mean over its pairs, each alone and without padding."""
    model = random_model(rng, attention=attention, cell="gru")
    batch = random_batch(rng)
    loss, gradients = model.loss_and_gradients(batch)
    total, sums = 0.0, dict.fromkeys(gradients, 0.0)
    for j, (n_source, n_target) in enumerate(zip(batch.source_lengths, batch.lengths, strict=True)):
        one = slice(j, j + 1)
        alone = PairBatch(
            batch.source[one, :n_source],
            batch.source_lengths[one],
            batch.target_in[one, :n_target],
            batch.target_out[one, :n_target],
            batch.target_lengths[one],
        )
        part, found = model.loss_and_gradients(alone)
        weight = n_target / batch.lengths.sum()
        total += part * weight
        sums = {key: sums[key] + d * weight for key, d in found.items()}
    assert loss == pytest.approx(total, rel=1e-12)
    for key, d in gradients.items():
        np.testing.assert_allclose(d, sums[key], atol=1e-12)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_prediction_is_greedy(attention, num_layers, rng):
    """Decoding step by step matches one pass over the written targets."""
    model = random_model(rng, hidden_size=6, num_layers=num_layers, attention=attention, end_token=1)
    source, lengths = rng.integers(0, SOURCE_VOCAB, (40, 5)), rng.integers(1, 6, 40)
    z, _, _ = model.forward(source, rng.integers(0, TARGET_VOCAB, (40, 7)), source_lengths=lengths)
    margin = z[1] - np.delete(z, 1, axis=0).max(axis=0)
    model.parameters["by"][1] -= np.quantile(margin, 0.7)  # some texts end early
    indices, ends, weights = model.predict(source, source_lengths=lengths, max_length=7)
    m, n_target = indices.shape
    assert 0 < np.sum(ends < n_target) < m  # some stop, some do not
    target_in = np.concatenate([np.ones((m, 1), int), indices[:, :-1]], axis=1)
    z, their_weights, _ = model.forward(source, target_in, source_lengths=lengths, keep_caches=False)
    written = np.arange(n_target) <= ends[:, None]
    np.testing.assert_array_equal(np.argmax(z, axis=0)[written], indices[written])
    assert (indices[np.arange(n_target) >= ends[:, None]] == 1).all()
    assert (indices[np.arange(n_target) < ends[:, None]] != 1).all()
    if attention is None:
        assert weights is None
    else:
        assert weights.shape == (m, n_target, 5)
        assert_close(weights, their_weights * written[:, :, None], 1e-12)
        alone = model.predict(source[7:8, : lengths[7]], max_length=7)
        np.testing.assert_array_equal(alone.indices[0], indices[7, : alone.indices.shape[1]])


def test_prediction_stops_early_and_without_examples(rng):
    model = random_model(rng)
    model.parameters["by"] = np.array([[100.0], [0], [0], [0]])  # the end token
    indices, lengths, weights = model.predict(np.zeros((2, 3), int), max_length=50)
    np.testing.assert_array_equal(indices, [[0], [0]])
    np.testing.assert_array_equal(lengths, [0, 0])
    assert weights.shape == (2, 1, 3)
    indices, lengths, weights = model.predict(np.zeros((0, 3), int), max_length=50)
    assert indices.shape == (0, 0)
    assert weights.shape == (0, 0, 3)


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_every_library(attention, runtime, rng):
    ours = random_model(rng, attention=attention, cell="rnn")
    batch = random_batch(rng, 2, 2, 2, [2, 1], [1, 2])
    theirs = Seq2Seq(**ours.config, parameters={name: runtime.asarray(p) for name, p in ours.parameters.items()})
    loss, gradients = ours.loss_and_gradients(batch)
    with runtime.use():
        their_loss, their_gradients = theirs.loss_and_gradients(batch)
        prediction = theirs.predict(batch.source, source_lengths=batch.source_lengths, max_length=2)
    assert float(their_loss) == pytest.approx(loss, rel=1e-12)
    for key, d in gradients.items():
        assert_close(to_numpy(their_gradients[key]), d, 1e-11, key)
    expected = ours.predict(batch.source, source_lengths=batch.source_lengths, max_length=2)
    np.testing.assert_array_equal(prediction.indices, expected.indices)
    assert_close(to_numpy(prediction.weights), expected.weights, 1e-12)


def test_float32_and_the_same_seed():
    batch = random_batch(np.random.default_rng(0))
    one, two = (Seq2Seq(SOURCE_VOCAB, TARGET_VOCAB, 8, seed=3) for _ in range(2))
    loss, gradients = one.loss_and_gradients(batch)
    same, again = two.loss_and_gradients(batch)
    assert loss == same
    for key, d in gradients.items():
        assert d.dtype == np.float32
        np.testing.assert_array_equal(d, again[key])
    assert one.predict(batch.source, max_length=2).weights.dtype == np.float32
    assert loss == pytest.approx(np.log(TARGET_VOCAB), rel=0.5)


def test_config_summary_and_messages(rng):
    model = random_model(rng, hidden_size=[3, 2], cell="gru", reset_after=True, attention="dot", end_token=2)
    again = Seq2Seq(**model.config, parameters=model.parameters)
    assert again.config == model.config
    batch = random_batch(rng)
    assert again.loss(batch) == model.loss(batch)
    assert model.count(batch) == 6
    assert "Wk_attention" in model.summary()
    assert repr(model) == (
        "<Seq2Seq: bidirectional gru_reset_after stack, 5-3-2; gru_reset_after stack, 4-3-2; dot attention>"
    )
    for options, message in (
        ({"attention": "general"}, r"`attention` must be one of \['additive', 'dot', 'scaled_dot'\]"),
        ({"end_token": 4}, "`end_token` must be an integer from 0 to 3; got 4"),
        ({"end_token": 0.5}, "`end_token` must be an integer from 0 to 3; got 0.5"),
        ({"end_token": True}, "`end_token` must be an integer from 0 to 3; got True"),
        ({"end_token": "a"}, "`end_token` must be an integer from 0 to 3; got 'a'"),
        ({"dropout": "x"}, "`dropout` must be a number; got str"),
        ({"cell": "transformer"}, "`cell` must be a rnnx.Cell"),
        ({"hidden_size": 0}, "`hidden_size` must be an integer of at least 1; got 0"),
        ({"parameters": {}}, "`parameters` must contain"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            Seq2Seq(SOURCE_VOCAB, TARGET_VOCAB, **options)
    with pytest.raises(ValueError, match="`target_vocab_size` must be an integer of at least 1; got 0"):
        Seq2Seq(3, 0)
    with pytest.raises(ValueError, match="`max_length` must be an integer from 1 to 1000000; got 0"):
        model.predict(batch.source, max_length=0)


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (np.array([1, 2, 3]), r"got shape \(3,\), dtype int64"),
        (np.zeros((2, 3, 1), int), r"got shape \(2, 3, 1\), dtype int64"),
        (np.zeros((2, 3)), r"got shape \(2, 3\), dtype float64"),
        ([[1, 2], [1]], "rows of equal length"),
        (["ab", "c"], "got dtype <U2"),
    ],
)
def test_messages_about_indices(bad, got, rng):
    model, good = random_model(rng), np.zeros((2, 3), int)
    with pytest.raises((ValueError, TypeError), match=f"`source` must .*{got}"):
        model.predict(bad, max_length=2)
    with pytest.raises((ValueError, TypeError), match=f"`source` must .*{got}"):
        model.forward(bad, good)
    with pytest.raises((ValueError, TypeError), match=f"`target_in` must .*{got}"):
        model.forward(good, bad)


def test_messages_about_source_and_target(rng):
    model, good = random_model(rng), np.zeros((2, 3), int)
    with pytest.raises(ValueError, match="`target_in` must have m = 2 rows, like `source`; got 1"):
        model.forward(good, good[:1])
    with pytest.raises(TypeError, match="`source` must be an array"):
        model.predict("abc", max_length=2)
    xp = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="`parameters` and `source` must come from the same array library"):
        model.predict(xp.asarray(good), max_length=2)


def test_max_length(rng):
    """A smaller limit only cuts the same characters."""
    model, tokenizer = random_model(rng, hidden_size=6), CharTokenizer.from_vocab(list("\nxyz"))
    sources = ["", *map("".join, rng.choice(list("xyz"), (30, 4)))]
    model.parameters["by"] = np.array([[-100.0], [0], [0], [0]])  # the end token never comes
    assert {len(text) for text in model.translate(sources, tokenizer, tokenizer, max_length=3)} == {3}
    model.parameters["by"][0] = 0
    long = model.translate(sources, tokenizer, tokenizer, max_length=9)
    for n in range(1, 9):
        assert model.translate(sources, tokenizer, tokenizer, max_length=n) == [text[:n] for text in long]
    assert 0 < sum(len(text) < 9 for text in long) < len(sources)
    assert model.translate([], tokenizer, tokenizer, max_length=3) == []
    with pytest.raises(ValueError, match="`max_length` must be an integer from 1 to 1000000; got 0"):
        model.translate(sources, tokenizer, tokenizer, max_length=0)


@pytest.mark.parametrize("attention", ["additive", "dot"])
def test_the_source_is_prepared_once(attention, rng, monkeypatch):
    """Prediction checks, copies and projects the keys once, not at every step."""
    calls = []
    for name in ("prepare", "project_keys"):
        original = getattr(rnnx.functional.attention, name)
        monkeypatch.setattr(rnnx.functional.attention, name, lambda *args, f=original: calls.append(f) or f(*args))
    model = random_model(rng, attention=attention)
    model.parameters["by"][0] = -100  # the end token never comes
    assert model.predict(np.ones((2, 3), int), max_length=5).weights.shape[1] == 5
    assert len(calls) == len(set(calls)) == (2 if attention == "additive" else 1)


def peak(f):
    """Return the peak memory of a call in bytes, and its result."""
    tracemalloc.start()
    result = f()
    _, size = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size, result


def test_large_vocabularies_need_no_identity_matrix(rng):
    """The columns of large and small vocabularies are made in different ways; they are the same."""
    n = 3000
    model = Seq2Seq(3, n, 2, cell="rnn", seed=0)
    model.predict(np.ones((2, 3), int), max_length=1)  # compiles, which takes memory
    size, prediction = peak(lambda: model.predict(np.ones((2, 3), int), max_length=3))
    assert size < n * n  # a matrix would have four times as many bytes
    target_in = np.concatenate([[[0], [0]], prediction.indices[:, :-1]], axis=1)
    z, _, _ = model.forward(np.ones((2, 3), int), target_in)
    np.testing.assert_array_equal(np.argmax(z[:, 0, :], axis=0), prediction.indices[0])
    characters = CharModel(n, 2, cell="rnn", seed=0)
    size, stream = peak(lambda: characters.stream(2))
    assert size < n * n
    whole, _, _ = characters.forward(np.array([[5, 2999], [0, 7]]))
    for t, indices in enumerate(([5, 0], [2999, 7])):
        assert_close(stream.read(np.array(indices)), whole[:, :, t], 1e-6)


def test_attention_keeps_no_cache_without_a_backward_pass(rng):
    model, batch = random_model(rng), random_batch(rng)
    options = {"source_lengths": batch.source_lengths, "target_lengths": batch.lengths}
    z, weights, cache = model.forward(batch.source, batch.target_in, **options, keep_caches=False)
    assert cache.attention is None
    expected, their_weights, cache = model.forward(batch.source, batch.target_in, **options)
    assert cache.attention is not None
    np.testing.assert_array_equal(z, expected)
    np.testing.assert_array_equal(weights, their_weights)


def test_pairs_of_other_integers():
    """Lists, empty lists and narrow integers give the same batches."""
    pairs = Pairs([[1, 2], []], [np.array([200, 255], np.uint8), []], end_token=np.int64(300))
    batch = next(pairs.batches(2))
    np.testing.assert_array_equal(batch.source, [[1, 2], [0, 0]])
    np.testing.assert_array_equal(batch.target_in, [[300, 200, 255], [300, 0, 0]])
    np.testing.assert_array_equal(batch.target_out, [[200, 255, 300], [300, 0, 0]])
    assert all(a.dtype == np.int64 for a in (batch.source, batch.target_in, batch.target_out))


def test_bad_pairs():
    good = [np.array([1, 2]), np.array([3])]
    for bad, message in (
        ([1.0, 2.0], r"must be 1-D arrays of int; .*\[1\] has shape \(2,\), dtype float64"),
        ([[1, 2]], r"must be 1-D arrays of int; .*\[1\] has shape \(1, 2\), dtype int64"),
        ([[1, 2], [1]], r"must be 1-D arrays of int; .*\[1\] has rows of different lengths"),
        ("ab", r"must be 1-D arrays of int; .*\[1\] has shape \(\), dtype <U2"),
        ([True], r"must be 1-D arrays of int; .*\[1\] has shape \(1,\), dtype bool"),
        ([3, -1], r"must be indices of at least 0; .*\[1\] contains -1"),
    ):
        with pytest.raises(ValueError, match="`sources` " + message):
            Pairs([good[0], bad], good, end_token=0)
        with pytest.raises(ValueError, match="`targets` " + message):
            Pairs(good, [good[0], bad], end_token=0)
    with pytest.raises(ValueError, match=r"`targets` must not contain `end_token` = 3; targets\[1\] does"):
        Pairs(good, good, end_token=3)
    for end_token in (-1, 0.5, True, "a"):
        with pytest.raises(
            (ValueError, TypeError), match=f"`end_token` must be an integer of at least 0; got {end_token!r}"
        ):
            Pairs(good, good, end_token)
    pairs = Pairs(good, good, end_token=0)
    for size in (0, -1, 1.5):
        with pytest.raises((ValueError, TypeError), match=f"`batch_size` must be an integer of at least 1; got {size}"):
            pairs.n_batches(size)


def test_pairs():
    sources = [np.arange(1, n) for n in (3, 2, 5, 4, 3)]
    pairs = Pairs(sources, [s[::-1] for s in sources], end_token=9)
    assert len(pairs) == 5
    assert pairs.n_batches(2) == 3
    first, *rest = pairs.batches(2)
    np.testing.assert_array_equal(first.source, [[1, 2], [1, 0]])
    np.testing.assert_array_equal(first.target_in, [[9, 2, 1], [9, 1, 0]])
    np.testing.assert_array_equal(first.target_out, [[2, 1, 9], [1, 9, 0]])
    np.testing.assert_array_equal(first.source_lengths, [2, 1])
    np.testing.assert_array_equal(first.lengths, [3, 2])
    assert [len(batch.source) for batch in rest] == [2, 1]
    for rng in (None, 7):
        whole, cut = (
            list(pairs.batches(2, None if rng is None else np.random.default_rng(rng), start=start)) for start in (0, 2)
        )
        np.testing.assert_array_equal(whole[2].target_out, cut[0].target_out)
        assert sum(batch.lengths.sum() for batch in whole) == sum(len(s) + 1 for s in sources)
    with pytest.raises(ValueError, match="must have the same length, at least 1; got 5 and 1"):
        Pairs(sources, sources[:1], end_token=0)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1; got 0"):
        next(pairs.batches(0))


def words(rng, n, length=4):
    return sorted({"".join(word) for word in rng.choice(list("abcdef"), (n, length))})


@pytest.mark.parametrize("attention", ["additive", "dot"])
@pytest.mark.slow
def test_learns_to_reverse_words(attention):
    """More than 99 % of unseen words are reversed exactly."""
    rng = np.random.default_rng(0)
    all_words = words(rng, 2000)
    rng.shuffle(all_words)
    train, held_out = all_words[:-200], all_words[-200:]
    tokenizer = CharTokenizer.from_vocab(["\n", *"abcdef"])
    encoded = tokenizer.texts_to_sequences(train)
    pairs = Pairs(encoded, [s[::-1] for s in encoded], end_token=0)
    model = Seq2Seq(7, 7, 32, attention=attention, cell="gru", seed=0)
    optimizer = rnnx.Adam(learning_rate=0.01)
    state, t = optimizer.init(model.parameters), 0
    for _ in range(8):
        for batch in pairs.batches(64, rng):
            t += 1
            _, gradients = model.loss_and_gradients(batch)
            model.parameters, state = optimizer.update(model.parameters, gradients, state, t)
    written = model.translate(held_out, tokenizer, tokenizer, max_length=6)
    right = np.mean([answer == word[::-1] for answer, word in zip(written, held_out, strict=True)])
    assert right > 0.99, right
    weights = model.predict(np.array([tokenizer.encode("abcd")]), max_length=6).weights
    np.testing.assert_array_equal(np.argmax(weights[0, :4], axis=1), [3, 2, 1, 0])  # attention finds the letter
