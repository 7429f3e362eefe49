"""Calibration and evaluation data against the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.errors import DataError
from compiler.graph import data
from fleet.artifact.manifest import InputSpec, Preprocessing

RAW = InputSpec(
    name="image",
    dtype="float32",
    shape=[None, 3, 4, 4],
    preprocessing=Preprocessing(
        raw_dtype="uint8", cast="float32", divide=[2.0], raw_layout="NHWC", layout="NCHW"
    ),
)
FIXED = InputSpec(name="image", dtype="float32", shape=[2, 5])
STATE = InputSpec(name="state", dtype="float32", shape=[2, 1, 4])
PATH = Path("some.npz")


def test_raw_data_are_preprocessed_and_tensors_taken_as_they_are() -> None:
    raw = np.arange(2 * 48, dtype=np.uint8).reshape(2, 4, 4, 3)
    from_raw = data.samples(PATH, {"image": raw}, [RAW]).feed(0, 2)["image"]
    assert from_raw.shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(from_raw, raw.transpose(0, 3, 1, 2).astype(np.float32) / 2)
    again = data.samples(PATH, {"image": from_raw}, [RAW]).feed(0, 2)["image"]
    np.testing.assert_array_equal(again, from_raw)


def test_samples_of_a_fixed_batch_come_batch_by_batch() -> None:
    array = np.arange(30, dtype=np.float32).reshape(6, 5)
    samples = data.samples(PATH, {"image": array}, [FIXED])
    assert (samples.count, samples.rows, samples.batchable) == (3, 2, False)
    assert samples.spans(64) == [(0, 1), (1, 2), (2, 3)]
    np.testing.assert_array_equal(samples.feed(1, 2)["image"], array[2:4])


def test_an_input_without_a_batch_axis_is_stacked() -> None:
    frames = InputSpec(name="image", dtype="float32", shape=[1, 5])
    arrays = {
        "image": np.zeros((7, 5), np.float32),
        "state": np.zeros((7, 2, 1, 4), np.float32),
    }
    samples = data.samples(PATH, arrays, [frames, STATE])
    feed = samples.feed(3, 4)
    assert samples.count == 7
    assert feed["state"].shape == (2, 1, 4)
    assert feed["image"].shape == (1, 5)


def test_batches_cover_everything_once() -> None:
    samples = data.samples(PATH, {"image": np.zeros((10, 4, 4, 3), np.uint8)}, [RAW])
    assert samples.spans(4) == [(0, 4), (4, 8), (8, 10)]
    assert samples.spans(4, 5) == [(0, 4), (4, 5)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": np.zeros((2, 4, 4, 3), np.uint8)}, r"named 'image'.*found \['picture'\]"),
        ({"image": np.zeros((2, 4, 4, 3), np.int32)}, r"uint8 \(raw\) or float32, found int32"),
        (
            {"image": np.zeros((2, 3, 4, 4), np.uint8)},
            r"\[samples, 4, 4, 3\], found \[2, 3, 4, 4\]",
        ),
        ({"image": np.zeros((2, 4, 4), np.uint8)}, r"found \[2, 4, 4\]"),
        ({"image": np.zeros((0, 4, 4, 3), np.uint8)}, "at least 1 sample"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        data.samples(PATH, arrays, [RAW])
    assert "some.npz" in str(error.value)


def test_lengths_must_agree() -> None:
    arrays = {"image": np.zeros((4, 5), np.float32), "state": np.zeros((3, 2, 1, 4), np.float32)}
    frames = InputSpec(name="image", dtype="float32", shape=[1, 5])
    with pytest.raises(DataError, match="expected 4 samples as in 'image', found 3"):
        data.samples(PATH, arrays, [frames, STATE])
    with pytest.raises(DataError, match="expected shape"):
        data.samples(PATH, {"image": np.zeros((5, 5), np.float32)}, [FIXED])


def test_values_that_are_not_finite_are_counted_and_placed(tmp_path: Path) -> None:
    array = np.zeros((3, 4), np.float32)
    array[1, 2], array[2, 0] = np.nan, np.inf
    path = tmp_path / "d.npz"
    np.savez(path, x=array)
    with pytest.raises(DataError, match=r"x: expected finite numbers, found 2 .*first at \[1, 2\]"):
        data.load(path)


def test_pickles_and_junk_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"numbers or texts|plain numpy arrays"):
        data.load(path)
    whole = path.read_bytes()
    for content in (b"", b"PK", whole[: len(whole) // 2], b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"d\.npz"):
            data.load(path)
    with pytest.raises(DataError, match="No such file"):
        data.load(tmp_path / "none.npz")
