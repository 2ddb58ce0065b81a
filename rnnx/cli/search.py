"""What ``rnnx tune`` searches: options of ``rnnx train`` with several values or a range, and back to a command."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click import Context, FloatRange, IntRange, Option

from rnnx._core.checks import nearest
from rnnx.cli.group import on_command_line
from rnnx.cli.options import widths
from rnnx.cli.train_command import as_option, as_setting
from rnnx.training.search_space import FIXED


@dataclass(frozen=True)
class Searched:
    """An option that is searched, the setting that it stands for, and the values of the setting."""

    option: Option
    setting: str
    values: Any

    @property
    def name(self) -> str:
        """The name of the option, without dashes in front."""
        return self.option.opts[0].removeprefix("--")


def searched(context: Context, texts: Sequence[str], known: Sequence[Option]) -> dict[str, Searched]:
    """Parse the values of --search; return what they search by settings."""
    found: dict[str, Searched] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"--search {text}: needs NAME=VALUES, such as learning-rate=1e-4..1e-2:log")
        option = _option(name, known)
        if option.name and on_command_line(context, option.name):
            raise ValueError(f"--search {name}: the option is given, too")
        one = _searched(context, option, values)
        if one.setting in found:
            raise ValueError(f"--search {name} must be given only once")
        found[one.setting] = one
    if not found:
        raise ValueError("--search is missing: what to search, such as --search learning-rate=1e-4..1e-2:log")
    return found


def _option(name: str, known: Sequence[Option]) -> Option:
    """Return the option with this name, with dashes or underscores."""
    plain = name.strip().lstrip("-").replace("_", "-")
    names = {opt.removeprefix("--"): one for one in known for opt in one.opts}
    if plain not in names:
        free = [one for one in names if names[one].name not in FIXED]
        raise ValueError(f"--search {name}: no setting of rnnx train has this name{nearest(plain, free)}")
    if names[plain].name in FIXED:
        raise ValueError(f"--search {name}: validation losses with different values of it could not be compared")
    return names[plain]


def _searched(context: Context, option: Option, text: str) -> Searched:
    """Parse values, or a range, of an option."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    where = f"--search {option.opts[0].removeprefix('--')}={text}"
    low, is_range, rest = text.partition("..")
    if not is_range:
        values = [_value(context, option, part.strip(), where) for part in text.split(",")]
        if len(set(values)) < len(values):
            raise ValueError(f"{where}: the values must differ")
        pairs = [as_setting(str(option.name), value) for value in values]
        return Searched(option, pairs[0][0], CategoricalDistribution([value for _, value in pairs]))
    whole = isinstance(option.type, IntRange) or option.callback is widths
    if not whole and not isinstance(option.type, FloatRange):
        raise ValueError(f"{where}: the option is no number; list its values, separated by commas")
    high, log, scale = rest.partition(":")
    ends = [_value(context, option, end.strip(), where) for end in (low, high)]
    if ends[0] >= ends[1] or (log and (scale.strip() != "log" or ends[0] <= 0)):
        raise ValueError(f"{where}: a range is LOW..HIGH or LOW..HIGH:log, with LOW < HIGH, and for log above 0")
    kind: Any = IntDistribution if whole else FloatDistribution
    return Searched(option, str(option.name), kind(*ends, log=bool(log)))


def _value(context: Context, option: Option, text: str, where: str) -> Any:
    """Return a value as the option itself would, and a width as an integer."""
    try:
        value: Any = (click.BOOL if option.is_flag else option.type).convert(text, option, context)
        value = option.callback(context, option, value) if option.callback else value
    except click.BadParameter as error:
        raise ValueError(f"{where}: {error.message}") from None
    return value[0] if option.callback is widths else value


def shown(found: Mapping[str, Searched], values: Mapping[str, Any]) -> str:
    """Return the values of a trial in short, by the names of the options."""
    pairs = [(found[setting], value) for setting, value in values.items() if setting in found]
    texts = [(one.name, as_option(str(one.option.name), value)) for one, value in pairs]
    return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in texts)


def command_of(
    context: Context, known: Sequence[Option], found: Mapping[str, Searched], values: Mapping[str, Any]
) -> str:
    """Return the command that trains what a trial has: ``rnnx train`` with the options given and those searched."""
    words = ["rnnx", "train"]
    of_trial = {found[setting].option.name: value for setting, value in values.items() if setting in found}
    for option in known:
        name = str(option.name)
        if name in of_trial:
            value = as_option(name, of_trial[name])
        elif on_command_line(context, name):
            value = context.params[name]
        else:
            continue
        if option.is_flag:
            words += [option.opts[0]] * bool(value)
        else:
            words += [option.opts[0], ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)
