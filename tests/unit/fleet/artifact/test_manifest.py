from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import artifacts
from support.strategies import histograms

from fleet.artifact import manifest as manifests
from fleet.artifact.manifest import Feature, InputSpec, Manifest, Preprocessing
from fleet.errors import ManifestError

pytestmark = pytest.mark.agent

BASE = artifacts.classify().manifest
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=10)

preprocessing = st.builds(
    Preprocessing,
    raw_dtype=st.sampled_from(["", *manifests.DTYPES]),
    cast=st.sampled_from(["", *manifests.DTYPES]),
    subtract=st.lists(finite, max_size=3),
    divide=st.lists(finite.filter(bool), max_size=3),
    raw_layout=st.sampled_from(["", "NHWC", "NCHW"]),
    layout=st.sampled_from(["", "NHWC", "NCHW"]),
)
inputs = st.builds(
    InputSpec,
    name=names,
    dtype=st.sampled_from(manifests.DTYPES),
    shape=st.lists(st.none() | st.integers(0, 999), max_size=4),
    preprocessing=st.none() | preprocessing,
)
features = st.builds(
    Feature,
    name=names,
    reference=histograms((-0.5, 1.5)),
    thresholds=st.dictionaries(st.integers(1, 10**6), finite, max_size=4),
)
some_manifests = st.builds(
    lambda i, f, text, p50: msgspec.structs.replace(
        BASE, inputs=i, features=f, task=text, licence=text, latency_ms_p50=p50
    ),
    st.lists(inputs, max_size=2, unique_by=lambda spec: spec.name),
    st.lists(features, max_size=2),
    st.text(max_size=20),
    finite,
)


@given(some_manifests)
def test_a_manifest_is_read_back(manifest):
    encoded = manifests.encode(manifest)
    assert manifests.decode(encoded) == manifest
    assert manifests.encode(manifests.decode(encoded)) == encoded


@given(some_manifests, st.data())
def test_damage_raises_nothing_but_manifest_errors(manifest, data):
    encoded = bytearray(manifests.encode(manifest))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    try:
        found = manifests.decode(bytes(encoded))
    except ManifestError:
        return
    assert isinstance(found, Manifest)


@given(st.binary(max_size=60))
def test_rubbish_is_refused(data):
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        manifests.decode(data)


@pytest.mark.parametrize("field", [f.name for f in msgspec.structs.fields(Manifest) if f.required])
def test_each_required_field_is_named_when_it_is_missing(field):
    document = msgspec.json.decode(manifests.encode(BASE))
    del document[field]
    with pytest.raises(ManifestError, match=field):
        manifests.decode(msgspec.json.encode(document))


def _changed(**fields):
    return manifests.encode(msgspec.structs.replace(BASE, **fields))


def test_an_unknown_format_says_what_to_do():
    with pytest.raises(ManifestError, match=r"outrider/artifact/9.*update this program"):
        manifests.decode(_changed(format="outrider/artifact/9"))


def test_an_unknown_dtype_is_named():
    spec = msgspec.structs.replace(artifacts.PROBS, dtype="bfloat16")
    with pytest.raises(ManifestError, match=r"probs\.dtype.*bfloat16"):
        manifests.decode(_changed(outputs=[spec]))


def test_two_inputs_of_one_name_are_refused():
    with pytest.raises(ManifestError, match="image"):
        manifests.decode(_changed(inputs=[artifacts.IMAGE, artifacts.IMAGE]))


def test_a_reference_whose_bins_do_not_fit_its_edges_is_refused():
    feature = BASE.features[0]
    broken = msgspec.structs.replace(feature.reference, counts=(1, 2))
    with pytest.raises(ManifestError, match=feature.name):
        manifests.decode(_changed(features=[msgspec.structs.replace(feature, reference=broken)]))


def test_fields_of_a_later_version_are_ignored():
    document = msgspec.json.decode(manifests.encode(BASE))
    document["later"] = {"x": 1}
    assert manifests.decode(msgspec.json.encode(document)) == BASE


def test_the_same_content_gives_the_same_bytes():
    thresholds = {64: 0.2, 16: 0.5}
    feature = msgspec.structs.replace(BASE.features[0], thresholds=thresholds)
    turned = msgspec.structs.replace(feature, thresholds=dict(sorted(thresholds.items())))
    assert _changed(features=[feature]) == _changed(features=[turned])


def test_preprocessing_numbers_survive_exactly():
    values = [float(v) for v in np.random.default_rng(0).normal(size=100)]
    rule = Preprocessing(subtract=values, divide=values)
    spec = msgspec.structs.replace(artifacts.IMAGE, preprocessing=rule)
    assert manifests.decode(_changed(inputs=[spec])).inputs[0].preprocessing == rule
