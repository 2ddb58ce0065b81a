"""The choice of a micro-kernel: a table, a measurement and its file. No test measures anything."""

import contextlib
import warnings

import pytest

from rnnx.engines.cpu.codegen import ir
from rnnx.engines.cpu.runtime import object_cache, object_files, tuning

FAMILIES = {"cascadelake": 3, "sapphirerapids": 3, "znver4": 4, "znver5": 4, "apple-m1": 4}


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """NV for many rows in a new process, where products with four and three vectors take the given times, or must not
    be measured.
    """
    monkeypatch.setenv("RNNX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RNNX_AUTOTUNE", "1")
    monkeypatch.setattr(tuning, "machine", lambda: ir.Machine(64, 32))
    monkeypatch.setattr(tuning, "_products", lambda nv: nv)

    def choose(*seconds, cpu="znver4"):
        def of(nv):
            assert seconds, "measured again"
            return {4: seconds[0], 3: seconds[1]}[nv]

        monkeypatch.setattr(tuning, "cpu_name", lambda: cpu)
        monkeypatch.setattr(tuning, "seconds", of)
        tuning._of_many_rows.cache_clear()
        object_files.cache_directory.cache_clear()
        return tuning.panel_vectors(4, 32)

    yield choose
    tuning._of_many_rows.cache_clear()
    object_files.cache_directory.cache_clear()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_without_a_measurement(name, chosen, monkeypatch):
    monkeypatch.setenv("RNNX_AUTOTUNE", "0")
    assert chosen(cpu=name) == tuning.panel_vectors(1, 7) == FAMILIES[name]
    assert tuning.panel_vectors(4, 6) == tuning.panel_vectors(4) == 4  # few rows
    assert tuning.panel_vectors(3, 32) == 3
    monkeypatch.setattr(tuning, "machine", lambda: ir.Machine(32, 16))
    assert tuning.panel_vectors(4, 32) == 2


def test_micro_panels_fit_the_gates(chosen):
    """Three gates in micro-panels of three vectors where four would fit, so that none holds part of a unit."""
    for group in range(1, 9):
        assert 1 <= tuning.panel_vectors(group) <= 4
    assert [tuning.panel_vectors(group) for group in (1, 2, 3, 4)] == [4, 4, 3, 4]


@pytest.mark.parametrize(("cpu", "seconds", "expected"), [
    ("znver4", (1.0, 0.9), 3),
    ("znver4", (1.0, 0.99), 4),
    ("cascadelake", (0.9, 1.0), 4),
    ("cascadelake", (0.99, 1.0), 3),
])  # fmt: skip
def test_the_faster_one_wins_if_the_difference_is_clear(cpu, seconds, expected, chosen):
    assert chosen(*seconds, cpu=cpu) == expected


def test_one_measurement_is_enough(chosen, tmp_path):
    assert chosen(2.0, 1.0) == 3
    assert chosen() == 3
    assert len(list((tmp_path / "cache").glob("*.o"))) == 1


@pytest.mark.parametrize("damage", ["changed", "empty", "other number", "not a number", "missing", "folder"])
def test_what_is_no_result_is_measured_again(damage, chosen, tmp_path):
    chosen(2.0, 1.0)
    (file,) = (tmp_path / "cache").iterdir()
    key = file.stem
    if damage in ("other number", "not a number"):
        object_files.write(key, {"other number": b"5", "not a number": b"three"}[damage])
    elif damage in ("changed", "empty"):
        file.write_bytes(b"" if damage == "empty" else file.read_bytes()[:-1] + b"4")
    else:
        file.unlink()
        if damage == "folder":
            file.mkdir()
    with pytest.warns(RuntimeWarning) if damage == "folder" else contextlib.nullcontext():
        object_files._warned.clear()
        assert chosen(1.0, 2.0) == 4


def test_another_processor_or_other_sources_measure_again(chosen, monkeypatch):
    chosen(2.0, 1.0)
    for change in ({"get_host_cpu_name": lambda: "another"}, {"get_process_triple": lambda: "another"}):
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setattr(object_cache.binding, name, value)
            assert chosen(1.0, 2.0) == 4
    monkeypatch.setattr(object_cache, "SOURCES", "others")
    assert chosen(1.0, 2.0) == 4
    assert chosen(2.0, 1.0) == 3  # sources that changed since the import: nothing is written


@pytest.mark.parametrize("folder", ["none", "a file", "read-only"])
def test_without_a_folder_every_process_measures(folder, chosen, tmp_path, monkeypatch):
    place = tmp_path / "cache"
    if folder == "a file":
        place.write_text("")
    elif folder == "read-only":
        place.mkdir(mode=0o700)
        monkeypatch.setattr(object_files._Folder, "open", _refuse)
    monkeypatch.setenv("RNNX_CACHE_DIR", "" if folder == "none" else str(place))
    with warnings.catch_warnings(action="ignore"):
        assert [chosen(2.0, 1.0), chosen(1.0, 2.0)] == [3, 4]


def _refuse(self, name, mode):
    raise PermissionError(name)


@pytest.mark.parametrize("mine", [3, 4])
def test_processes_that_measure_at_the_same_time(mine, chosen):
    """Each uses its own result; the file is that of the last one."""

    def measure():
        object_cache._write(object_cache._key("measured", "name"), b"3")  # by another process, meanwhile
        return (mine,)

    assert object_cache.remembered("name", [(3, 4)], measure) == (mine,)
    assert object_cache.remembered("name", [(3, 4)], measure) == (mine,)


def test_the_measurement_itself_runs(monkeypatch):
    """With real products, whatever their times are."""
    if not {3, 4} <= set(tuning.MR[ir.machine().registers]):
        pytest.skip("this processor has one candidate")
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    assert tuning._fastest(3) in (3, 4)
