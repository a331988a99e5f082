"""Data frames and tables come back as what they were, or are refused."""

from __future__ import annotations

import datetime
import decimal
import warnings

import numpy as np
import pytest

import shoal
from shoal import values

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")

KEPT = {
    "an index that begins elsewhere": pandas.DataFrame({"a": range(1000), "b": [str(at) for at in range(1000)]}, range(5, 1005)),
    "nothing": pandas.DataFrame(),
    "no rows": pandas.DataFrame({"a": np.array([], "f4")}),
    "no columns": pandas.DataFrame(index=[1, 2, 3]),
    "text": pandas.DataFrame({"a": ["x", None, "ключ"]}),
    "numbers as names": pandas.DataFrame(np.arange(6.0).reshape(3, 2)),
    "an index of levels": pandas.DataFrame(
        {"a": [1, 2]}, pandas.MultiIndex.from_tuples([(1, "x"), (2, "y")], names=["n", "s"])
    ),
    "columns of levels": pandas.DataFrame([[1, 2]], columns=pandas.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
    "categories": pandas.DataFrame({"a": pandas.Categorical(["u", "v", "u"], ["v", "u"], ordered=True)}),
    "times": pandas.DataFrame({"a": pandas.date_range("2020", periods=3, tz="Europe/Berlin")}),
    "regular times": pandas.DataFrame({"a": [1, 2, 3]}, pandas.date_range("2020", periods=3, freq="D")),
    "times as names": pandas.DataFrame([[1, 2]], columns=pandas.date_range("2020", periods=2)),
    "spans": pandas.DataFrame({"a": pandas.to_timedelta([1, 2, None], unit="s")}),
    "missing": pandas.DataFrame({"a": pandas.array([1, None, 3], "Int64"), "b": pandas.array([True, None, False], "boolean")}),
    "periods": pandas.DataFrame({"a": pandas.period_range("2020", periods=3, freq="M")}),
    "intervals": pandas.DataFrame({"a": pandas.interval_range(0, 3)}),
    "dates": pandas.DataFrame({"a": [datetime.date(2020, 1, 1), None]}),
    "decimals": pandas.DataFrame({"a": [decimal.Decimal("1.5")]}),
    "no numbers": pandas.DataFrame({"a": [1.0, np.nan, np.inf]}),
    "halves": pandas.DataFrame({"a": np.zeros(2, "f2")}),
    "a name of the columns": pandas.DataFrame({"a": [1]}, columns=pandas.Index(["a"], name="columns")),
}
CHANGED = {
    "numbers as objects": pandas.DataFrame({"a": np.array([1, 2], object)}),
    "objects of all kinds": pandas.DataFrame({"a": np.array([1, "x"], object)}),
    "tuples": pandas.DataFrame({"a": [(1, 2), (3, 4)]}),
    "lists": pandas.DataFrame({"a": [[1, 2], [3]]}),
    "complex numbers": pandas.DataFrame({"a": np.zeros(2, complex)}),
    "a name twice": pandas.DataFrame([[1, 2]], columns=["a", "a"]),
    "names of two kinds": pandas.DataFrame([[1, 2]], columns=[1, "b"]),
    "truths as names": pandas.DataFrame([[1, 2]], columns=[True, False]),
}


@pytest.mark.parametrize("name", KEPT)
def test_frames_come_back(local: shoal.Client, name: str) -> None:
    frame = KEPT[name]
    local.put("frames/kept", frame, volatile=True)
    pandas.testing.assert_frame_equal(local.get("frames/kept"), frame, check_freq=True)
    assert local.info("frames/kept").labels["type"] == "arrow"


@pytest.mark.parametrize("name", CHANGED)
def test_frames_that_would_be_changed_are_refused(local: shoal.Client, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(shoal.PickleRefused, match="DataFrame"):
            local.put("frames/changed", CHANGED[name])
    local.put("frames/changed", CHANGED[name], allow_pickle=True, volatile=True)
    pandas.testing.assert_frame_equal(local.get("frames/changed", allow_pickle=True), CHANGED[name])


def test_columns_are_not_copied(local: shoal.Client) -> None:
    numbers = np.arange(1_000_000.0)
    table = pyarrow.table({"x": numbers, "text": [str(at) for at in range(1_000_000)]})
    parts, _ = values.encode(table)
    assert numbers.ctypes.data in {np.frombuffer(part, np.uint8).ctypes.data for part in parts}
    local.put("frames/table", table)
    got = local.get("frames/table")
    assert got.equals(table)
    local.put("frames/table", table.slice(1000, 5000))
    assert local.get("frames/table").equals(table.slice(1000, 5000))


def test_elements_are_not_copied_wherever_they_lie() -> None:
    array = np.arange(1_000_000.0).reshape(1000, 1000)
    for view in (array[::2], array[:, 3:], array.T, array[:, ::-1], array.reshape(10, 100, 1000).transpose(1, 0, 2)):
        _, part = values.encode(view)[0]
        assert np.shares_memory(np.asarray(part), array)
    torch = pytest.importorskip("torch")
    for dtype in (torch.float64, torch.bfloat16, torch.bool):
        tensor = torch.ones(300, 400).to(dtype)
        _, part = values.encode(tensor.T[::2])[0]
        assert np.asarray(part).ctypes.data == tensor.data_ptr()
