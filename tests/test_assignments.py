"""Both assignments of the course as their notebooks run them: cell by cell, after `from rnnx.course import *`.

A cell is code, and what the assignment prints. The cells with the learner's own functions may be left out: those of
`rnnx.course` do the same.
"""

import contextlib
import functools
import io

import pytest

from rnnx.data import dinosaur_names

IMPORTS = "import numpy as np\nfrom rnnx.course import *"


def run_cells(cells):
    """Run cells in one scope, as a notebook does; return what each printed."""
    scope, printed = {"__name__": "notebook"}, []
    for number, code in enumerate(cells):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, f"cell {number}", "exec"), scope)
        printed.append(out.getvalue())
    return printed


# --- Building your Recurrent Neural Network, Step by Step ---------------------------------------------------------

OWN_FORWARD = """
def rnn_cell_forward(xt, a_prev, parameters):
    p = parameters
    a_next = np.tanh(p["Waa"] @ a_prev + p["Wax"] @ xt + p["ba"])
    return a_next, softmax(p["Wya"] @ a_next + p["by"]), (a_next, a_prev, xt, parameters)

def rnn_forward(x, a0, parameters):
    a, y, caches, a_next = [], [], [], a0
    for t in range(x.shape[2]):
        a_next, yt, cache = rnn_cell_forward(x[:, :, t], a_next, parameters)
        a.append(a_next), y.append(yt), caches.append(cache)
    return np.stack(a, axis=2), np.stack(y, axis=2), (caches, x)

def lstm_cell_forward(xt, a_prev, c_prev, parameters):
    p, concat = parameters, np.concatenate([a_prev, xt])
    ft, it, ot = (sigmoid(p["W" + g] @ concat + p["b" + g]) for g in "fio")
    cct = np.tanh(p["Wc"] @ concat + p["bc"])
    c_next = ft * c_prev + it * cct
    a_next = ot * np.tanh(c_next)
    cache = a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters
    return a_next, c_next, softmax(p["Wy"] @ a_next + p["by"]), cache

def lstm_forward(x, a0, parameters):
    a, y, c, caches, a_next, c_next = [], [], [], [], a0, np.zeros_like(a0)
    for t in range(x.shape[2]):
        a_next, c_next, yt, cache = lstm_cell_forward(x[:, :, t], a_next, c_next, parameters)
        a.append(a_next), y.append(yt), c.append(c_next), caches.append(cache)
    return np.stack(a, axis=2), np.stack(y, axis=2), np.stack(c, axis=2), (caches, x)
"""
OWN_BACKWARD = """
def rnn_cell_backward(da_next, cache):
    a_next, a_prev, xt, p = cache
    dz = (1 - a_next**2) * da_next
    weights = {"dWax": dz @ xt.T, "dWaa": dz @ a_prev.T, "dba": dz.sum(axis=1, keepdims=True)}
    return {"dxt": p["Wax"].T @ dz, "da_prev": p["Waa"].T @ dz, **weights}

def add_up(step, dx, total):
    dx.insert(0, step["dxt"])
    for key in step:
        if key[1] in "Wb":
            total[key] = total.get(key, 0) + step[key]

def rnn_backward(da, caches):
    total, dx, da_prev = {}, [], np.zeros(da.shape[:2])
    for t in reversed(range(da.shape[2])):
        step = rnn_cell_backward(da[:, :, t] + da_prev, caches[0][t])
        da_prev = step["da_prev"]
        add_up(step, dx, total)
    return {"dx": np.stack(dx, axis=2), "da0": da_prev, **total}

def lstm_cell_backward(da_next, dc_next, cache):
    a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, p = cache
    concat, tanh_c = np.concatenate([a_prev, xt]), np.tanh(c_next)
    dc = dc_next + da_next * ot * (1 - tanh_c**2)
    dz = {"f": dc * c_prev * ft * (1 - ft), "i": dc * cct * it * (1 - it), "c": dc * it * (1 - cct**2)}
    dz["o"] = da_next * tanh_c * ot * (1 - ot)
    d_concat = sum(p["W" + g].T @ dz[g] for g in dz)
    gradients = {"dW" + g: dz[g] @ concat.T for g in dz}
    gradients |= {"db" + g: dz[g].sum(axis=1, keepdims=True) for g in dz}
    n_a = len(a_next)
    return {"da_prev": d_concat[:n_a], "dxt": d_concat[n_a:], "dc_prev": dc * ft, **gradients}

def lstm_backward(da, caches):
    total, dx, da_prev, dc_prev = {}, [], np.zeros(da.shape[:2]), np.zeros(da.shape[:2])
    for t in reversed(range(da.shape[2])):
        step = lstm_cell_backward(da[:, :, t] + da_prev, dc_prev, caches[0][t])
        da_prev, dc_prev = step["da_prev"], step["dc_prev"]
        add_up(step, dx, total)
    return {"dx": np.stack(dx, axis=2), "da0": da_prev, **total}
"""
LSTM_PARAMETERS = """
np.random.seed(1)
x, a0 = np.random.randn(*sizes), np.random.randn(5, 10)
c0 = np.random.randn(5, 10) if len(sizes) == 2 else None
parameters = {}
for gate in gates:
    parameters["W" + gate], parameters["b" + gate] = np.random.randn(5, 5 + 3), np.random.randn(5, 1)
"""
STEP_BY_STEP = [  # code, and what it prints
    (
        """
np.random.seed(1)
xt, a_prev = np.random.randn(3, 10), np.random.randn(5, 10)
shapes = {"Waa": (5, 5), "Wax": (5, 3), "Wya": (2, 5), "ba": (5, 1), "by": (2, 1)}
parameters = {name: np.random.randn(*shape) for name, shape in shapes.items()}
a_next, yt_pred, cache = rnn_cell_forward(xt, a_prev, parameters)
print(a_next[4][:3], a_next.shape)
print(yt_pred[1][:3], yt_pred.shape)
""",
        "[0.59584544 0.18141802 0.61311866] (5, 10)\n[0.9888161  0.01682021 0.21140899] (2, 10)\n",
    ),
    (
        """
np.random.seed(1)
x, a0 = np.random.randn(3, 10, 4), np.random.randn(5, 10)
parameters = {name: np.random.randn(*shape) for name, shape in shapes.items()}
a, y_pred, caches = rnn_forward(x, a0, parameters)
print(a[4][1], y_pred[1][3])
print(caches[1][1][3], len(caches))
""",
        "[-0.99999375  0.77911235 -0.99861469 -0.99833267] [0.79560373 0.86224861 0.11118257 0.81515947]\n"
        "[-1.1425182  -0.34934272 -0.20889423  0.58662319] 2\n",
    ),
    (
        """
np.random.seed(1)
x, a0 = np.random.randn(3, 10, 4), np.random.randn(5, 10)
parameters = {name: np.random.randn(*shapes[name]) for name in ("Wax", "Waa", "Wya", "ba", "by")}
a, y, caches = rnn_forward(x, a0, parameters)
gradients = rnn_backward(np.random.randn(5, 10, 4), caches)
print(gradients["dx"][1][2], gradients["dx"].shape)
print(f"{gradients['da0'][2][3]:.12f} {gradients['dWax'][3][1]:.10f}")
""",
        "[-2.07101689 -0.59255627  0.02466855  0.01483317] (3, 10, 4)\n-0.314942375127 11.2641044965\n",
    ),
    (
        'sizes, gates = (3, 10), "fioc"'
        + LSTM_PARAMETERS
        + """
parameters["Wy"], parameters["by"] = np.random.randn(2, 5), np.random.randn(2, 1)
a_next, c_next, yt, cache = lstm_cell_forward(x, a0, c0, parameters)
print(a_next[4][:3], c_next[2][:3], yt[1][:3], len(cache))
gradients = lstm_cell_backward(np.random.randn(5, 10), np.random.randn(5, 10), cache)
print(f"{gradients['dxt'][1][2]:.11f} {gradients['da_prev'][2][3]:.13f} {gradients['dc_prev'][2][3]:.12f}")
""",
        "[-0.66408471  0.0036921   0.02088357] [0.63267805 1.00570849 0.35504474] "
        "[0.79913913 0.15986619 0.22412122] 10\n"
        "3.23055911511 -0.0639621419711 0.797522038797\n",
    ),
    (
        "sizes = (3, 10, 7)"
        + LSTM_PARAMETERS
        + """
without_output = dict(parameters)
parameters["Wy"], parameters["by"] = np.random.randn(2, 5), np.random.randn(2, 1)
a, y, c, caches = lstm_forward(x, a0, parameters)
print(f"{a[4][3][6]:.12f} {y[1][4][3]:.11f} {c[1][2][1]:.12f}", len(caches))
""",
        "0.172117767533 0.95087346185 -0.855544916718 2\n",
    ),
    (
        LSTM_PARAMETERS
        + """
parameters["Wy"], parameters["by"] = np.zeros((2, 5)), np.zeros((2, 1))  # the notebook has none; its own loop needs one
a, y, c, caches = lstm_forward(x, a0, parameters)
gradients = lstm_backward(np.random.randn(5, 10, 4), caches)
print(gradients["dx"][1][2], gradients["dx"].shape)
print(f"{gradients['da0'][2][3]:.12f} {gradients['dWf'][3][1]:.13f} {gradients['dbo'][4].item():.8f}")
""",
        "[ 0.00218254  0.28205375 -0.48292508 -0.43281115] (3, 10, 4)\n0.312770310257 -0.0809802310938 -0.17958196\n",
    ),
]


@pytest.mark.parametrize("own", [[], [OWN_FORWARD], [OWN_BACKWARD], [OWN_FORWARD, OWN_BACKWARD]])
def test_step_by_step(own):
    cells, expected = zip(*STEP_BY_STEP, strict=True)
    printed = run_cells([IMPORTS, *own, *cells])
    assert printed[1 + len(own) :] == list(expected)


# --- Character level language model, Dinosaurus Island ------------------------------------------------------------

OWN = {
    "clip": """
def clip(gradients, maxValue):
    clipped = {key: gradients[key] for key in ("dWaa", "dWax", "dWya", "db", "dby")}
    for gradient in clipped.values():
        np.clip(gradient, -maxValue, maxValue, out=gradient)
    return clipped
""",
    "sample": """
def sample(parameters, char_to_ix, seed):
    p, counter, index, indices = parameters, 0, -1, []
    x, a_prev = np.zeros((len(p["by"]), 1)), np.zeros((len(p["b"]), 1))
    while index != char_to_ix["\\n"] and counter != 50:
        a_prev = np.tanh(p["Wax"] @ x + p["Waa"] @ a_prev + p["b"])
        y = softmax(p["Wya"] @ a_prev + p["by"])
        np.random.seed(counter + seed)
        index = np.random.choice(list(range(len(y))), p=y.ravel())
        indices.append(int(index))
        x = np.zeros_like(x)
        x[index] = 1
        seed, counter = seed + 1, counter + 1
    return [*indices, char_to_ix["\\n"]] if counter == 50 else indices
""",
    "optimize": """
def optimize(X, Y, a_prev, parameters, learning_rate=0.01):
    loss, cache = rnn_forward(X, Y, a_prev, parameters)
    gradients, a = rnn_backward(X, Y, parameters, cache)
    gradients = clip(gradients, 5)
    parameters = update_parameters(parameters, gradients, learning_rate)
    return loss, gradients, a[len(X) - 1]
""",
    "model": """
def model(data, ix_to_char, char_to_ix, num_iterations=35000, n_a=50, dino_names=7, vocab_size=27):
    parameters = initialize_parameters(n_a, vocab_size, vocab_size)
    loss = get_initial_loss(vocab_size, dino_names)
    with open("dinos.txt") as file:
        examples = [line.lower().strip() for line in file.readlines()]
    np.random.seed(0)
    np.random.shuffle(examples)
    a_prev = np.zeros((n_a, 1))
    for j in range(num_iterations):
        index = j % len(examples)
        X = [None] + [char_to_ix[ch] for ch in examples[index]]
        Y = X[1:] + [char_to_ix["\\n"]]
        curr_loss, gradients, a_prev = optimize(X, Y, a_prev, parameters, learning_rate=0.01)
        loss = smooth(loss, curr_loss)
        if j % 2000 == 0:
            print("Iteration: %d, Loss: %f" % (j, loss) + "\\n")
            for seed in range(dino_names):
                print_sample(sample(parameters, char_to_ix, seed), ix_to_char)
            print("\\n")
    return parameters
""",
}
GRADIENTS = """
np.random.seed(3)
shapes = {"dWax": (5, 3), "dWaa": (5, 5), "dWya": (2, 5), "db": (5, 1), "dby": (2, 1)}
gradients = {name: np.random.randn(*shape) * 10 for name, shape in shapes.items()}
gradients = clip(gradients, 10)
print(gradients["dWaa"][1][2], gradients["dWax"][3][1], gradients["dWya"][1][2])
print(gradients["db"][4], gradients["dby"][1])
"""
SAMPLE = """
np.random.seed(24)
shapes = {"Wax": (100, 27), "Waa": (100, 100), "Wya": (27, 100), "b": (100, 1), "by": (27, 1)}
parameters = {name: np.random.randn(*shape) for name, shape in shapes.items()}
indices = sample(parameters, char_to_ix, 0)
print(indices[:21], [ix_to_char[i] for i in indices[:3]])
"""
OPTIMIZE = """
np.random.seed(1)
a_prev = np.random.randn(100, 1)
parameters = {name: np.random.randn(*shape) for name, shape in shapes.items()}
loss, gradients, a_last = optimize([12, 3, 5, 11, 22, 3], [4, 14, 11, 22, 25, 26], a_prev, parameters)
print(f"{loss:.9f} {gradients['dWaa'][1][2]:.12f} {np.argmax(gradients['dWax'])} {gradients['dWya'][1][2]:.12f}")
print(gradients["db"][4], gradients["dby"][1], a_last.shape)
"""
DINOSAURS = [
    (
        """
with open("dinos.txt") as file:
    data = file.read().lower()
chars = sorted(list(set(data)))
char_to_ix = {ch: i for i, ch in enumerate(chars)}
ix_to_char = {i: ch for i, ch in enumerate(chars)}
print(len(chars), chars[:3])
""",
        "27 ['\\n', 'a', 'b']\n",
    ),
    (GRADIENTS, "10.0 -10.0 0.2971381536101662\n[10.] [8.45833407]\n"),
    (
        SAMPLE,
        "[23, 16, 26, 26, 24, 3, 21, 1, 7, 24, 15, 3, 25, 20, 6, 13, 10, 8, 20, 12, 2] ['w', 'p', 'z']\n",
    ),
    (
        OPTIMIZE,
        "126.503975722 0.194709315347 93 -0.007773876032\n[-0.06809825] [0.01538192] (100, 1)\n",
    ),
]
TRAIN = "parameters = model(data, ix_to_char, char_to_ix, 2001)"
SUBSETS = [[], *([name] for name in OWN), list(OWN)]


@functools.cache
def trained_alone():
    """What the training prints after only the cells that it needs, in a folder with the names."""
    return run_cells([IMPORTS, DINOSAURS[0][0], TRAIN])[-1]


@pytest.mark.parametrize("own", SUBSETS, ids="-".join)
def test_dinosaurs(tmp_path, monkeypatch, own):
    """To the end: the model is trained, and prints the same whichever functions are the learner's own."""
    (tmp_path / "dinos.txt").write_text(dinosaur_names())
    monkeypatch.chdir(tmp_path)
    cells, expected = zip(*DINOSAURS, strict=True)
    *printed, trained = run_cells([IMPORTS, *(OWN[name] for name in own), *cells, TRAIN])
    assert printed[1 + len(own) :] == list(expected)
    assert trained == trained_alone()
    assert trained.startswith("Iteration: 0, Loss: 23.09")
    losses = [line for line in trained.splitlines() if line.startswith("Iteration")]
    assert losses[1].startswith("Iteration: 2000, Loss: 2")
