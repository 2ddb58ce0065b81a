"""The times of evenly spaced series: what comes next, what a season is, and how they are written."""

import numpy as np

_DAY = 86400
_SEASONS = {_DAY: 7, 7 * _DAY: 52}  # steps of a season by the seconds of a step


def months_between(times: np.ndarray) -> int:
    """Return the constant number of months between dates; 0 if it is not constant, or they are closer than that."""
    if times.dtype.kind != "M" or len(times) < 2 or np.diff(times).min() < np.timedelta64(28, "D"):
        return 0
    steps = np.diff(times.astype("datetime64[M]").astype(int))
    return int(steps[0]) if (steps == steps[0]).all() else 0


def following(times: np.ndarray, n: int) -> np.ndarray:
    """Return the n times after the last one of at least two."""
    count = np.arange(1, n + 1)
    if not (months := months_between(times)):
        return times[-1] + (times[-1] - times[-2]) * count
    firsts = times.astype("datetime64[M]")
    ahead, days = firsts[-1] + months * count, times - firsts
    if (days == days[0]).all():
        return (ahead + days[-1]).astype(times.dtype)
    dates = times.astype("datetime64[D]")
    last = (ahead + 1).astype("datetime64[D]") - 1  # the last days of the months
    if not (dates == (firsts + 1).astype("datetime64[D]") - 1).all():  # a day that short months do not have
        last = np.minimum(last, ahead + (dates - firsts).max())
    return (last + (times[-1] - dates[-1])).astype(times.dtype)


def season_of(times: np.ndarray) -> int:
    """Return how many steps a season has: of steps below a day a day, of days a week, of weeks and months a year.

    1, which is no season, of years, numbers and other steps.
    """
    if times.dtype.kind != "M" or len(times) < 2:
        return 1
    if months := months_between(times):
        return 12 // months if months > 0 and 12 % months == 0 else 1
    step = int((times[1] - times[0]) / np.timedelta64(1, "s"))
    if 0 < step < _DAY:
        return _DAY // step if _DAY % step == 0 else 1
    return _SEASONS.get(step, 1)


def written(times: np.ndarray) -> list[str]:
    """Return times as text: dates as ISO writes them, without a time of day if all are at midnight."""
    if times.dtype.kind != "M":
        return [str(time) for time in times.tolist()]
    days = times.astype("datetime64[D]")
    if (days == times).all():
        return [str(day) for day in days]
    seconds = times.astype("datetime64[s]")
    return [str(time).replace("T", " ") for time in (seconds if (seconds == times).all() else times)]
