from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet.artifact.manifest import TensorSpec
from fleet.errors import CallerError
from fleet.telemetry import features

pytestmark = pytest.mark.agent

IMAGE = TensorSpec(name="image", dtype="float32", shape=[None, 3, 8, 8])
SCORES = TensorSpec(name="scores", dtype="float32", shape=[None, 4])


def _spec(name: str, *shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=list(shape))


def test_names_suit_the_signature():
    assert features.names_for([IMAGE], [SCORES]) == [
        "input:image:mean",
        "input:image:std",
        "input:image:roughness",
        "output:scores:confidence",
        "output:scores:entropy",
    ]


@pytest.mark.parametrize(
    ("output", "kinds"),
    [
        (_spec("y", None, 1), ["mean"]),
        (_spec("y", None), ["mean"]),
        (_spec("y", 1, 4420, 4), ["mean", "std"]),
        (_spec("y", None, None), ["mean", "std"]),
        (_spec("y", None, 5, dtype="int64"), ["mean", "std"]),
        (_spec("y", None, 100_000), ["mean", "std"]),
        (_spec("y", None, 2), ["confidence", "entropy"]),
    ],
)
def test_only_class_scores_have_a_confidence(output, kinds):
    assert features.names_for([], [output]) == [f"output:y:{kind}" for kind in kinds]


def test_a_model_with_many_tensors_is_watched_by_its_first_ones():
    names = features.names_for([_spec(f"x{i}", None, 7) for i in range(100)], [])
    assert len(names) == features.MAX_FEATURES
    assert names[0] == "input:x0:mean"


def test_an_awkward_tensor_name_is_found_again():
    name = "a:b/c:0"
    spec = _spec(name, None, 4)
    found = features.of({name: np.ones((2, 4))}, {}, names=features.names_for([spec], []))
    assert set(found) == {"input:a:b/c:0:mean", "input:a:b/c:0:std"}


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3), st.just(4), st.just(6)),
               elements=st.floats(width=32)),
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(width=32)),
)  # fmt: skip
def test_any_tensors_have_one_value_per_sample_that_depends_on_it_alone(images, scores):
    names = features.names_for([IMAGE], [SCORES])
    whole = features.of({"image": images}, {"scores": scores}, names=names)
    for name in names:
        source = images if name.startswith("input") else scores
        assert whole[name].shape == (len(source),)
        for i in range(len(source)):
            one = features.of(
                {"image": images[i : i + 1] if source is images else images},
                {"scores": scores[i : i + 1] if source is scores else scores},
                names=[name],
            )[name][0]
            np.testing.assert_allclose(whole[name][i], one, rtol=1e-6, equal_nan=True)


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-50, 50, width=32)))
def test_confidence_and_entropy_of_logits_are_those_of_their_softmax(logits):
    exps = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    p = exps / exps.sum(axis=1, keepdims=True)
    shifted = logits + 100  # the same distribution, and nothing that could pass for probabilities
    found = features.of({}, {"y": shifted}, names=["output:y:confidence", "output:y:entropy"])
    np.testing.assert_allclose(found["output:y:confidence"], p.max(axis=1), atol=1e-4)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(found["output:y:entropy"], entropy, atol=1e-3)


def test_probabilities_are_taken_as_they_are():
    p = np.array([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25]], np.float32)
    found = features.of({}, {"y": p}, names=["output:y:confidence", "output:y:entropy"])
    np.testing.assert_allclose(found["output:y:confidence"], [0.7, 0.25], atol=1e-6)
    assert found["output:y:entropy"][1] == pytest.approx(np.log(4))


def test_probabilities_rounded_to_8_bits_are_still_probabilities():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(214, 0.05), size=50)
    rounded = np.round(p * 256) / 256
    exact = features.of({}, {"y": p}, names=["output:y:confidence"])["output:y:confidence"]
    found = features.of({}, {"y": rounded}, names=["output:y:confidence"])["output:y:confidence"]
    np.testing.assert_allclose(found, exact, atol=0.1)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_roughness_sees_blur_and_noise_and_not_contrast_or_brightness(layout):
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(8, 3, 40, 40)).cumsum(axis=2).cumsum(axis=3)
    blurred = sum(np.roll(smooth, k, axis=3) for k in range(-3, 4)) / 7
    noisy = smooth + rng.normal(size=smooth.shape) * smooth.std() * 0.5

    def rough(x):
        x = x.transpose(0, 2, 3, 1) if layout == "NHWC" else x
        return features.of({"x": x}, {}, names=["input:x:roughness"])["input:x:roughness"]

    assert (rough(blurred) < rough(smooth)).all()
    assert (rough(noisy) > rough(smooth) * 1.5).all()
    np.testing.assert_allclose(rough(smooth * 3 + 100), rough(smooth))


def test_integer_and_boolean_tensors_are_watched_too():
    found = features.of(
        {"t": np.array([[1, 3], [5, 5]], np.int16), "b": np.array([[True, False]])},
        {},
        names=["input:t:mean", "input:t:std", "input:b:mean"],
    )
    np.testing.assert_allclose(found["input:t:mean"], [2, 5])
    np.testing.assert_allclose(found["input:t:std"], [1, 0])
    np.testing.assert_allclose(found["input:b:mean"], [0.5])


@pytest.mark.parametrize(
    "shape", [(), (3,), (2, 0), (2, 3, 0, 4), (2, 1, 1, 1), (0, 4), (0, 3, 8, 8), (1, 2, 3, 4, 5)]
)
def test_odd_shapes_raise_nothing(shape):
    kinds = ("mean", "std", "roughness", "confidence", "entropy")
    names = [f"input:x:{kind}" for kind in kinds]
    found = features.of({"x": np.ones(shape, np.float32)}, {}, names=names)
    assert {len(values) for values in found.values()} == {shape[0] if shape else 1}


@pytest.mark.parametrize("name", ["input:y:mean", "side:x:mean", "input:x:median", "x", ""])
def test_an_unknown_name_is_refused_with_what_is_known(name):
    with pytest.raises(CallerError, match="KIND one of mean, std"):
        features.of({"x": np.ones((1, 2))}, {}, names=[name])
