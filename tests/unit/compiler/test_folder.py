"""Model folders: every mistake names the file, the key, what was found and what was expected."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_folders

from compiler.errors import FolderError
from compiler.graph import folder, onnx_model, signature
from fleet.artifact.manifest import InputSpec, Preprocessing


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folders.write(tmp_path_factory.mktemp("model"))


def loaded(place: Path, toml: str) -> folder.ModelFolder:
    (place / "outrider.toml").write_text(toml)
    return folder.load(place)


def test_a_good_folder_is_read_as_written(place: Path) -> None:
    found = loaded(place, model_folders.TOML)
    assert (found.name, found.version, found.metric.name) == ("tiny", "3", "top1")
    assert found.metric.budget == 0.05
    assert found.max_batch == 16
    assert found.preprocessing == {
        "image": Preprocessing(
            raw_dtype="uint8", cast="float32", subtract=[128.0], divide=[64.0],
            raw_layout="NHWC", layout="NCHW",
        )
    }  # fmt: skip


MISTAKES = [
    ('name = "tiny"', 'name = "my model"', "name", "A-Z a-z 0-9 _ -", "'my model'"),
    ('name = "tiny"\n', "", "name", "1 to 64", "no such key"),
    ('name = "top1"', 'name = "top2"', "metric.name", "top1", "'top2'"),
    ('name = "top1"', 'name = "os.path"', "metric.name", "package.module:function", "'os.path'"),
    ("budget = 0.05", "budget = -1", "metric.budget", "at least 0", "-1"),
    ("budget = 0.05", "budget = nan", "metric.budget", "a number", "nan"),
    ("budget = 0.05", 'budget = "much"', "metric.budget", "a number", "'much'"),
    ("budget = 0.05", "budget = 0.05\nk = 5", "metric.k", "one of the keys", "'k'"),
    ("max_batch = 16", "max_batch = 0", "data.max_batch", "at least 1", "0"),
    ("max_batch = 16", "max_bach = 16", "data.max_bach", "did you mean 'max_batch'", "'max_bach'"),
    ("max_batch = 16", 'calibration = "none.npz"', "data.calibration", "that exists", "'none.npz'"),
    ("max_batch = 16", 'evaluation = "../x.npz"', "data.evaluation", "in the model folder", "'../x.npz'"),
    ("max_batch = 16", 'evaluation = "/etc/passwd"', "data.evaluation", "in the model folder", "'/etc/passwd'"),
    ("divide = 64", "divide = 0", "inputs.image.divide", "none of them 0", "0"),
    ("divide = 64", "divide = []", "inputs.image.divide", "list of numbers", "[]"),
    ("subtract = 128", 'subtract = ["a"]', "inputs.image.subtract", "list of numbers", "['a']"),
    ('cast = "float32"', 'cast = "float"', "inputs.image.cast", "float32", "'float'"),
    ('"NHWC->NCHW"', '"HWC"', "inputs.image.layout", "NHWC->NCHW", "'HWC'"),
    ('dtype = "uint8"\n', "", "inputs.image.dtype", "applications send", "no such key"),
    ("[data]\nmax_batch = 16", "[other]", "data", "a table", "no such key"),
    ('task = "four textures"', "task = 4", "task", "a text", "4"),
    ("[data]", "[data", "", "TOML", "line"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "expected", "found"), MISTAKES)
def test_a_mistake_is_named(
    place: Path, old: str, new: str, key: str, expected: str, found: str
) -> None:
    toml = model_folders.TOML.replace(old, new, 1)
    assert toml != model_folders.TOML
    with pytest.raises(FolderError) as error:
        loaded(place, toml)
    text = str(error.value)
    assert str(place / "outrider.toml") in text
    assert f"outrider.toml: {key}" in text
    assert expected in text
    assert found in text


def test_no_folder_and_no_description_are_said(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="found no folder"):
        folder.load(tmp_path / "nowhere")
    with pytest.raises(FolderError, match=r"expected outrider\.toml"):
        folder.load(tmp_path)


def test_a_link_out_of_the_folder_is_refused(place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.npz"
    outside.write_bytes(b"x")
    link = place / "link.npz"
    link.symlink_to(outside)
    toml = model_folders.TOML.replace("max_batch = 16", 'calibration = "link.npz"')
    with pytest.raises(FolderError, match=r"data\.calibration"):
        loaded(place, toml)
    link.unlink()


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(model_folders.TOML) - 1), with_=st.binary(min_size=0, max_size=6))
def test_no_text_makes_anything_but_an_error_of_ours(place: Path, at: int, with_: bytes) -> None:
    text = model_folders.TOML.encode()
    (place / "outrider.toml").write_bytes(text[:at] + with_ + text[at + len(with_) :])
    with contextlib.suppress(FolderError):
        folder.load(place)


def specs(place: Path, toml: str) -> list[InputSpec]:
    described = loaded(place, toml)
    return signature.input_specs(described, onnx_model.load(described.model).inputs)


def test_preprocessing_must_fit_the_model(place: Path) -> None:
    with pytest.raises(FolderError, match=r"inputs\.picture: expected one of the model's inputs"):
        specs(place, model_folders.TOML.replace("[inputs.image]", "[inputs.picture]"))
    with pytest.raises(FolderError, match=r"inputs\.image\.subtract: expected 1 or 3 numbers"):
        specs(place, model_folders.TOML.replace("subtract = 128", "subtract = [1, 2]"))
    with pytest.raises(FolderError, match="another dtype than the model's own float32"):
        specs(place, model_folders.TOML.replace('dtype = "uint8"', 'dtype = "float32"'))
    (found,) = specs(place, model_folders.TOML.replace("subtract = 128", "subtract = [1, 2, 3]"))
    assert signature.raw_shape(found) == [None, 8, 8, 3]
