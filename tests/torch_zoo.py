"""The forward functions of the zoo, written a second time in torch from the papers' equations."""

from rnnx.cells import ZOO


def joint(p, gate, h, x):
    """W [h; x] + b."""
    import torch

    return p[f"W{gate}"] @ torch.cat([h, x]) + p[f"b{gate}"]


def of_x(p, gate, x):
    return p[f"W{gate}"] @ x + p[f"b{gate}"]


def sig(z):
    return 1 / (1 + (-z).exp())


def lstm_step(p, h, c, x):
    """The LSTM's new states."""
    f, i, o = (sig(joint(p, gate, h, x)) for gate in "fio")
    c = f * c + i * joint(p, "g", h, x).tanh()
    return o * c.tanh(), c


def cifg(p, s, x, e):
    (a, c) = s
    f, o = sig(joint(p, "f", a, x)), sig(joint(p, "o", a, x))
    c = f * c + (1 - f) * joint(p, "g", a, x).tanh()
    return o * c.tanh(), c


def cornn(p, s, x, e):
    y, z = s
    force = (joint(p, "w", y, x) + p["Wv"] @ z).tanh()
    z = z + 0.05 * (force - 1.0 * y - 2.0 * z)
    return y + 0.05 * z, z


def fo_pool(p, s, x, e):
    _, c = s
    f, o = sig(of_x(p, "f", x)), sig(of_x(p, "o", x))
    c = f * c + (1 - f) * of_x(p, "z", x).tanh()
    return o * c, c


def gru_d(p, s, x, e):
    (a,) = s
    a = (-of_x(p, "d", x).clamp(min=0)).exp() * a
    u, r = sig(joint(p, "u", a, x)), sig(joint(p, "r", a, x))
    return ((1 - u) * a + u * joint(p, "c", r * a, x).tanh(),)


def indrnn(p, s, x, e):
    return ((of_x(p, "g", x) + p["u"] * s[0]).clamp(min=0),)


def janet(p, s, x, e):
    z = joint(p, "f", s[0], x)
    return (sig(z) * s[0] + (1 - sig(z - 1)) * joint(p, "c", s[0], x).tanh(),)


def layer_norm(z, gain):
    import torch

    return torch.nn.functional.layer_norm(z.T, z.shape[:1], gain[:, 0], eps=1e-5).T


def normalized(p, gates, side, operand, columns):
    """Normalize one side of several gates together."""
    import torch

    z = torch.cat([p[f"W{gate}"][:, columns] for gate in gates]) @ operand
    return layer_norm(z, torch.cat([p[side + gate] for gate in gates]))


def layer_norm_gru(p, s, x, e):
    import torch

    (a,), n = s, s[0].shape[0]
    z_x, z_h = slice(n, None), slice(n)
    bias = torch.cat([p["bu"], p["br"]])
    u, r = sig(normalized(p, "ur", "x", x, z_x) + normalized(p, "ur", "h", a, z_h) + bias).chunk(2)
    c = normalized(p, "c", "x", x, z_x) + p["bc"] + r * (normalized(p, "c", "h", a, z_h) + p["sc"])
    return (u * c.tanh() + (1 - u) * a,)


def layer_norm_lstm(p, s, x, e):
    import torch

    (a, c), n = s, s[0].shape[0]
    bias = torch.cat([p["b" + gate] for gate in "figo"])
    z = normalized(p, "figo", "x", x, slice(n, None)) + normalized(p, "figo", "h", a, slice(n)) + bias
    f, i, g, o = z.chunk(4)
    c = sig(f) * c + sig(i) * g.tanh()
    return sig(o) * (layer_norm(c, p["gc"]) + p["bc"]).tanh(), c


def leaky_esn(p, s, x, e):
    return (0.7 * s[0] + 0.3 * joint(p, "g", s[0], x).tanh(),)


def lem(p, s, x, e):
    y, z = s
    d1, d2 = sig(joint(p, "d1", y, x)), sig(joint(p, "d2", y, x))
    z = (1 - d1) * z + d1 * joint(p, "zc", y, x).tanh()
    return (1 - d2) * y + d2 * joint(p, "c", z, x).tanh(), z


def ligru(p, s, x, e):
    z = sig(joint(p, "z", s[0], x))
    return (z * s[0] + (1 - z) * joint(p, "c", s[0], x).clamp(min=0),)


def lru(p, s, x, e):
    import torch

    eigenvalue = torch.exp(torch.complex(-p["nu"].exp(), p["theta"].exp()))
    state = eigenvalue * torch.complex(*s) + p["gamma"].exp() * torch.complex(of_x(p, "u", x), of_x(p, "v", x))
    return state.real, state.imag


def lstmp(p, s, x, e):
    a, c = lstm_step(p, *s, x)
    return p["Wp"] @ a, c


def mgu(p, s, x, e):
    f = sig(joint(p, "f", s[0], x))
    return ((1 - f) * s[0] + f * joint(p, "c", f * s[0], x).tanh(),)


def mingru(p, s, x, e):
    z = sig(of_x(p, "z", x))
    return ((1 - z) * s[0] + z * of_x(p, "c", x),)


def multiplicative_lstm(p, s, x, e):
    a, c = s
    n = a.shape[0]
    m = (p["Wm"][:, n:] @ x + p["bm"]) * (p["Wm"][:, :n] @ a)
    return lstm_step(p, m, c, x)


def peephole_lstm(p, s, x, e):
    a, c = s
    f, i = sig(joint(p, "f", a, x) + p["pf"] * c), sig(joint(p, "i", a, x) + p["pi"] * c)
    c = f * c + i * joint(p, "g", a, x).tanh()
    return sig(joint(p, "o", a, x) + p["po"] * c) * c.tanh(), c


def phased_lstm(p, s, x, e):
    import torch

    r, phase = p["r"], torch.remainder(e["t"] / p["p"].exp() - p["s"], 1)
    rising, falling = 2 * phase / r, 2 - 2 * phase / r
    k = torch.where(phase < r / 2, rising, torch.where(phase < r, falling, 0.001 * phase))
    return tuple(k * new + (1 - k) * old for new, old in zip(lstm_step(p, *s, x), s, strict=True))


def relu_rnn(p, s, x, e):
    return (joint(p, "g", s[0], x).clamp(min=0),)


def slstm(p, s, x, e):
    """Without the state m, which only rescales c and n."""
    import torch

    a, c, n, m = s
    i, f = joint(p, "i", a, x), torch.nn.functional.logsigmoid(joint(p, "f", a, x))
    new = torch.maximum(f + m, i)
    c = torch.exp(f + m - new) * c + torch.exp(i - new) * joint(p, "z", a, x).tanh()
    n = torch.exp(f + m - new) * n + torch.exp(i - new)
    return sig(joint(p, "o", a, x)) * c / n, c, n, new


def sru(p, s, x, e):
    _, c = s
    f, r = sig(of_x(p, "f", x) + p["vf"] * c), sig(of_x(p, "r", x) + p["vr"] * c)
    c = f * c + (1 - f) * of_x(p, "g", x)
    return r * c + (1 - r) * of_x(p, "k", x), c


def ugrnn(p, s, x, e):
    g = sig(joint(p, "g", s[0], x))
    return (g * s[0] + (1 - g) * joint(p, "c", s[0], x).tanh(),)


def unicornn(p, s, x, e):
    y, z = s
    dt = 0.1 * sig(p["c"])
    z = z - dt * ((p["w"] * y + of_x(p, "v", x)).tanh() + 0.9 * y)
    return y + dt * z, z


STEPS = {name: globals()[name] for name in ZOO}
