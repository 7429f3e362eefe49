from __future__ import annotations

import io
import zipfile

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import artifacts

from fleet.artifact import manifest as manifests
from fleet.artifact import package
from fleet.errors import ManifestError

pytestmark = pytest.mark.agent

CONTENT = artifacts.classify()
DATA = package.write(CONTENT)

arrays = st.dictionaries(
    st.text("abc:/._-é", min_size=1, max_size=8),
    hnp.arrays(
        st.sampled_from([np.dtype(name) for name in manifests.DTYPES]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    max_size=3,
)


def _same(left, right):
    return (
        left.manifest == right.manifest
        and left.payload == right.payload
        and left.attestation == right.attestation
        and _equal(left.golden_inputs, right.golden_inputs)
        and _equal(left.golden_outputs, right.golden_outputs)
    )


def _equal(left, right):
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype
        and left[k].shape == right[k].shape
        and left[k].tobytes() == right[k].tobytes()
        for k in left
    )


@given(inputs=arrays, outputs=arrays, attestation=st.binary(max_size=20))
def test_an_artifact_is_read_back(inputs, outputs, attestation):
    content = msgspec.structs.replace(
        CONTENT, golden_inputs=inputs, golden_outputs=outputs, attestation=attestation
    )
    assert _same(package.read(package.write(content)), content)


@given(inputs=arrays, seed=st.randoms(use_true_random=False))
def test_equal_content_gives_equal_bytes(inputs, seed):
    items = list(inputs.items())
    seed.shuffle(items)
    left = package.write(msgspec.structs.replace(CONTENT, golden_inputs=inputs))
    right = package.write(msgspec.structs.replace(CONTENT, golden_inputs=dict(items)))
    assert left == right


@settings(max_examples=400)
@given(st.data())
def test_damage_is_refused_or_harmless(data):
    damaged = bytearray(DATA)
    bit = data.draw(st.integers(0, len(DATA) * 8 - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        found = package.read(bytes(damaged))
    except ManifestError:
        return
    assert _same(found, CONTENT)


@settings(max_examples=200)
@given(st.integers(0, len(DATA) - 1))
def test_a_cut_file_is_refused(length):
    with pytest.raises(ManifestError):
        package.read(DATA[:length])


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda b: b"PK\x03\x04" + b))
def test_rubbish_is_refused(data):
    with pytest.raises(ManifestError):
        package.read(data)


def _rebuilt(**members):
    """The artifact's file with members replaced, or taken out (None)."""
    with zipfile.ZipFile(io.BytesIO(DATA)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    found |= {name.replace("__", "."): value for name, value in members.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in found.items():
            if value is not None:
                archive.writestr(name, value)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["manifest__json", "model__onnx", "golden__npz"])
def test_a_missing_member_is_named(name):
    with pytest.raises(ManifestError, match=name.replace("__", ".")):
        package.read(_rebuilt(**{name: None}))


def test_another_payload_is_refused():
    with pytest.raises(ManifestError, match="expected sha256"):
        package.read(_rebuilt(model__onnx=b"other"))


def test_pickles_are_refused():
    buffer = io.BytesIO()
    np.savez(buffer, **{"in:x": np.array([object()])})
    with pytest.raises(ManifestError, match="plain numpy arrays"):
        package.read(_rebuilt(golden__npz=buffer.getvalue()))


def _npy(shape, body=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue() + body


@pytest.mark.parametrize("shape", [(10**15,), (-1,), (2**62, 8), (3,)])
def test_an_array_larger_than_its_bytes_is_refused_before_memory_is_taken(shape):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("in:x.npy", _npy(shape))
    with pytest.raises(ManifestError, match=r"golden\.npz"):
        package.read(_rebuilt(golden__npz=buffer.getvalue()))


def test_golden_vectors_that_inflate_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(package, "_MAX_SMALL_MEMBER_BYTES", 1 << 20)
    bomb = package.npz_bytes({"in:x": np.zeros(1 << 20, np.float32)})
    assert len(bomb) < 1 << 20
    with pytest.raises(ManifestError, match="at most"):
        package.read(_rebuilt(golden__npz=bomb))


@pytest.mark.parametrize(
    "member", ["manifest.json", "golden.npz", "attestation.json", "../x", "a/b", "", "."]
)
def test_a_payload_under_a_reserved_or_odd_name_is_refused(member):
    payload = msgspec.structs.replace(CONTENT.manifest.payload, member=member)
    changed = msgspec.structs.replace(CONTENT.manifest, payload=payload)
    with pytest.raises(ManifestError, match=r"payload\.member"):
        manifests.decode(manifests.encode(changed))
