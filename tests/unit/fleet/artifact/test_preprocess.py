from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet.artifact.manifest import DTYPES, InputSpec, Preprocessing
from fleet.artifact.preprocess import is_raw, tensor_of
from fleet.errors import CallerError

pytestmark = pytest.mark.agent


def _spec(dtype="float32", **rule):
    return InputSpec(
        name="image", dtype=dtype, shape=[None, 3, 4, 5], preprocessing=Preprocessing(**rule)
    )


raw_images = hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(4), st.just(5), st.just(3)))


@given(raw_images, st.lists(st.floats(0, 255, width=32), min_size=3, max_size=3))
def test_each_value_is_the_formula_s(raw, means):
    spec = _spec(
        raw_dtype="uint8", cast="float32", subtract=means, divide=[2.0, 4.0, 8.0],
        raw_layout="NHWC", layout="NCHW",
    )  # fmt: skip
    found = tensor_of(spec, raw)
    assert found.shape == (len(raw), 3, 4, 5)
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]
    for channel in range(3):
        expected = (raw[..., channel].astype(np.float32) - np.float32(means[channel])) / np.float32(
            [2, 4, 8][channel]
        )
        np.testing.assert_array_equal(found[:, channel], expected)


@given(raw_images)
def test_the_sample_s_tensor_does_not_depend_on_its_batch(raw):
    spec = _spec(raw_dtype="uint8", cast="float32", subtract=[128], divide=[64],
                 raw_layout="NHWC", layout="NCHW")  # fmt: skip
    whole = tensor_of(spec, raw)
    for i in range(len(raw)):
        np.testing.assert_array_equal(tensor_of(spec, raw[i : i + 1])[0], whole[i])


@given(raw_images)
def test_both_layouts_give_the_same_channels(raw):
    per_channel = {"subtract": [1.0, 2.0, 3.0], "divide": [2.0, 4.0, 8.0]}
    last = _spec(raw_dtype="uint8", raw_layout="NHWC", layout="NCHW", **per_channel)
    first = _spec(raw_dtype="uint8", raw_layout="NCHW", layout="NCHW", **per_channel)
    np.testing.assert_array_equal(tensor_of(last, raw), tensor_of(first, raw.transpose(0, 3, 1, 2)))


def test_per_channel_values_apply_without_a_change_of_layout():
    spec = _spec(raw_dtype="uint8", raw_layout="NCHW", subtract=[1.0, 2.0, 3.0])
    raw = np.full((2, 3, 4, 5), 10, np.uint8)
    np.testing.assert_array_equal(tensor_of(spec, raw)[0, :, 0, 0], [9, 8, 7])


def test_without_pre_processing_the_array_is_cast():
    spec = InputSpec(name="x", dtype="float32", shape=[None, 2])
    found = tensor_of(spec, np.array([[1, 2]], np.int64))
    assert found.dtype == np.float32
    assert not is_raw(spec, "int64")


def test_another_dtype_than_the_raw_one_is_refused():
    with pytest.raises(CallerError, match="expected raw data of dtype uint8, found float64"):
        tensor_of(_spec(raw_dtype="uint8"), np.zeros((1, 3, 4, 5)))


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5), (1, 4, 5, 3, 1)])
def test_another_rank_than_the_layout_s_is_refused(shape):
    spec = _spec(raw_dtype="uint8", raw_layout="NHWC", layout="NCHW")
    with pytest.raises(CallerError, match="NHWC"):
        tensor_of(spec, np.zeros(shape, np.uint8))


def test_another_number_of_channels_is_refused():
    spec = _spec(raw_dtype="uint8", raw_layout="NHWC", layout="NCHW", subtract=[1.0, 2.0, 3.0])
    with pytest.raises(CallerError, match=r"3 values.*4 channels"):
        tensor_of(spec, np.zeros((1, 4, 5, 4), np.uint8))


@given(st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.sampled_from(DTYPES))
def test_one_rule_tells_raw_arrays_from_tensors(dtype, raw_dtype, found):
    spec = _spec(dtype, raw_dtype=raw_dtype)
    assert is_raw(spec, found) == (found == raw_dtype and raw_dtype != dtype)


def test_values_keep_their_precision_in_the_cast_dtype():
    spec = InputSpec(
        name="x", dtype="float32", shape=[None],
        preprocessing=Preprocessing(raw_dtype="uint8", cast="float64", divide=[3.0]),
    )  # fmt: skip
    found = tensor_of(spec, np.array([1], np.uint8))
    assert found[0] == np.float32(1 / 3)


@pytest.mark.parametrize("cast", ["int16", "int32"])
def test_division_in_an_integer_cast_is_true_division(cast):
    spec = InputSpec(
        name="x", dtype="float32", shape=[None],
        preprocessing=Preprocessing(raw_dtype="uint8", cast=cast, subtract=[0.5], divide=[2.0]),
    )  # fmt: skip
    found = tensor_of(spec, np.array([3], np.uint8))
    assert found[0] == pytest.approx(1.25)
