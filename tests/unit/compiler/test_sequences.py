"""Models with states: sequences as data, states that are fed back, mistakes by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import sequence_folders as cells

from compiler.errors import DataError, FolderError, ModelError
from compiler.evaluate import unroll
from compiler.evaluate.stepping import Stepping
from compiler.graph import data, folder, sequences
from fleet.artifact.manifest import InputSpec, TensorSpec

X = InputSpec(name="x", dtype="float32", shape=[None, 6])
H = InputSpec(name="h", dtype="float32", shape=[1, None, 12])
Y = TensorSpec(name="y", dtype="float32", shape=[None, 3])
HN = TensorSpec(name="hN", dtype="float32", shape=[1, None, 12])
STATES = {"h": "hN"}
PATH = Path("some.npz")


class Counter:
    """A runtime whose state counts steps and adds up what it is fed."""

    def __init__(self) -> None:
        self.closed = False

    def run(self, feeds):
        assert feeds["x"].shape == (1, 1)
        total = feeds["h"] + feeds["x"][0, 0]
        return {"y": total[None].copy(), "hN": total}

    def close(self) -> None:
        self.closed = True


def counted(lengths: list[int], x: np.ndarray, initial: np.ndarray | None = None) -> np.ndarray:
    """What `Counter` answers, sequence after sequence."""
    arrays = {"x": x[:, None], "sequence": np.repeat(np.arange(len(lengths)) * 7, lengths)}
    if initial is not None:
        arrays["h"] = initial
    specs = [
        InputSpec(name="x", dtype="float32", shape=[None, 1]),
        InputSpec(name="h", dtype="float32", shape=[]),
    ]
    found = sequences.sequences(PATH, arrays, specs, STATES)
    runtime = Stepping(Counter(), STATES)
    parts = [runtime.run(found.feed(lo, hi))["y"] for lo, hi in found.spans(64)]
    return np.concatenate(parts).reshape(-1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_each_sequence_begins_anew_and_remembers_itself(lengths: list[int], draw) -> None:
    total = sum(lengths)
    x = np.array(
        draw.draw(st.lists(st.integers(-9, 9), min_size=total, max_size=total)), np.float32
    )
    first = np.arange(len(lengths), dtype=np.float32)
    parts = np.split(x, np.cumsum(lengths)[:-1])
    np.testing.assert_array_equal(counted(lengths, x), np.concatenate([p.cumsum() for p in parts]))
    expected = np.concatenate([p.cumsum() + i for i, p in enumerate(parts)])
    np.testing.assert_array_equal(counted(lengths, x, first), expected)


def test_flat_rows_may_be_interleaved_and_labels_follow() -> None:
    x = np.arange(36, dtype=np.float32).reshape(6, 6)
    ids, label = np.array([4, 2, 4, 2, 4, 9]), np.arange(6)
    flat, lengths = sequences.flattened(PATH, {"x": x, "sequence": ids, "label": label}, [X])
    assert lengths == [3, 2, 1]
    np.testing.assert_array_equal(flat["label"], [0, 2, 4, 1, 3, 5])
    np.testing.assert_array_equal(flat["x"], x[[0, 2, 4, 1, 3, 5]])


def test_both_forms_are_the_same_and_can_be_picked_from() -> None:
    x = cells.inputs(4, 5, 0)
    one = sequences.sequences(PATH, {"x": x}, [X, H], STATES)
    flat = {"x": x.reshape(20, 6), "sequence": np.repeat(np.arange(4), 5)}
    other = sequences.sequences(PATH, flat, [X, H], STATES)
    assert (one.count, one.rows, one.batchable) == (other.count, other.rows, False) == (4, 5, False)
    for left, right in ((one, other), (one.pick(np.array([2, 0])), other.pick(np.array([2, 0])))):
        for span in left.spans(64):
            a, b = left.feed(*span), right.feed(*span)
            assert a.keys() == b.keys() == {"x", "h", "sequence"}
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(one.pick(np.array([2, 0])).feed(0, 1)["x"][:, 0], x[2])


def test_sequences_of_several_lengths_are_not_divided() -> None:
    arrays = {"x": np.zeros((5, 6), np.float32), "sequence": np.array([0, 0, 1, 1, 1])}
    found = sequences.sequences(PATH, arrays, [X, H], STATES)
    assert (found.count, found.rows) == (1, 5)
    assert found.feed(0, 1)["h"].shape == (2, 1, 1, 12)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"named 'x' as the model's input"),
        ({"x": np.zeros((4, 6), np.float32)}, r"x: expected shape|expected shape \[samples, 6\]"),
        (
            {"x": np.zeros(4, np.float32)},
            r"x: expected shape \[sequences, steps, \.\.\.\], found \[4\]",
        ),
        ({"x": np.zeros((0, 5, 6), np.float32)}, r"found \[0, 5, 6\]"),
        (
            {"x": np.zeros((2, 5, 6), np.float32), "label": np.zeros((2, 4), int)},
            r"label: expected shape \[2, 5, \.\.\.\], found \[2, 4\]",
        ),
        (
            {"x": np.zeros((4, 6), np.float32), "sequence": np.zeros(4)},
            "sequence: expected whole numbers, one per row, found dtype float64",
        ),
        (
            {"x": np.zeros((4, 6), np.float32), "sequence": np.zeros(3, int)},
            "x: expected 3 rows as 'sequence' has",
        ),
        (
            {"x": np.zeros((2, 5, 6), np.float32), "h": np.zeros((3, 12), np.float32)},
            r"h: expected the state's first values, of shape \[1, 1, 12\] or \[2, 1, 1, 12\]",
        ),
        (
            {"x": np.zeros((2, 5, 6), np.float32), "h": np.zeros((1, 1, 12))},
            "h: expected dtype float32, found float64",
        ),
        (
            {"x": np.zeros((2, 5, 7), np.float32)},
            r"x: expected shape \[samples, 6\], found \[10, 7\]",
        ),
    ],
)
def test_data_that_are_no_sequences_are_told(arrays, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sequences.sequences(PATH, arrays, [X, H], STATES)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"g": "hN"}, r"states\.g: expected one of the model's inputs \['h', 'x'\], found 'g'"),
        ({"h": "hM"}, r"states\.h: expected one of the model's outputs \['hN', 'y'\], found 'hM'"),
        ({"h": "y"}, r"states\.h: expected an output of dtype float32 and shape \[1, None, 12\]"),
        ({"h": "hN", "x": "y"}, r"states\.x: expected an output of dtype"),
    ],
)
def test_states_that_the_model_does_not_have_are_told(tmp_path: Path, states, message: str) -> None:
    lines = "".join(f'{k} = "{v}"\n' for k, v in states.items())
    cells.write(tmp_path / "cell", toml=cells.TOML.replace('h = "hN"\n', lines))
    described = folder.load(tmp_path / "cell")
    with pytest.raises(FolderError, match=message):
        sequences.check(described, [X, H], [Y, HN])


def test_one_output_cannot_become_two_states(tmp_path: Path) -> None:
    cells.write(tmp_path / "cell", toml=cells.TOML + 'x = "hN"\n')
    with pytest.raises(
        FolderError, match=r"states\.h: expected an output that becomes no other state"
    ):
        folder.load(tmp_path / "cell")


def test_a_model_of_states_alone_is_told(tmp_path: Path) -> None:
    cells.write(tmp_path / "cell")
    described = folder.load(tmp_path / "cell")
    with pytest.raises(FolderError, match="expected an input that is no state"):
        sequences.check(described, [H], [Y, HN])


def test_who_forgot_to_declare_a_state_is_told_how() -> None:
    arrays = {"x": np.zeros((4, 6), np.float32)}
    with pytest.raises(DataError, match=r'write into outrider.toml: \[states\] h = "hN"'):
        sequences.check_declared(PATH, arrays, [X, H], [Y, HN])
    sequences.check_declared(PATH, arrays | {"h": np.zeros(1)}, [X, H], [Y, HN])
    assert sequences.suggest([X], [Y]) == {}


@pytest.mark.parametrize("flat", [False, True])
def test_the_fp32_model_leaves_the_states_of_every_step(tmp_path: Path, flat: bool) -> None:
    home = cells.write(tmp_path / "cell", flat=flat)
    file = unroll.record(
        cells.cell().SerializeToString(),
        home / "calibration.npz",
        [X, H],
        STATES,
        work=tmp_path / "w",
    )
    recorded = data.load(file)
    x = cells.inputs(12, 20, 1)
    for index in (0, 7):
        _, states = cells.run(cells.cell(), x[index])
        found = recorded["h"].reshape(12, 20, *states.shape[1:])[index]
        np.testing.assert_allclose(found, states, atol=1e-5)
    assert not recorded["h"].reshape(12, 20, -1)[:, 0].any(), "each sequence begins with zeros"
    samples = data.samples(file, recorded, [X, H])
    assert samples.count == 240
    assert {n: a.shape for n, a in samples.feed(3, 4).items()} == {"x": (1, 6), "h": (1, 1, 12)}


def test_a_state_that_is_lost_in_nan_is_named(tmp_path: Path) -> None:
    home = cells.write(tmp_path / "cell")
    model = cells.cell()
    next(t for t in model.graph.initializer if t.name == "one").raw_data = np.array(
        [np.inf], np.float32
    ).tobytes()
    with pytest.raises(
        ModelError, match="state 'h': expected finite numbers at each step, found NaN"
    ):
        unroll.record(
            model.SerializeToString(), home / "calibration.npz", [X, H], STATES, work=tmp_path / "w"
        )
