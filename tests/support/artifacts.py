"""Real artifacts for tests, made of the small model files in `tests/data/models`."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet.artifact import manifest as manifests
from fleet.artifact import package
from fleet.artifact.manifest import (
    Binding,
    Feature,
    InputSpec,
    Manifest,
    Metric,
    Payload,
    Preprocessing,
    TensorSpec,
    Tolerance,
)
from fleet.artifact.package import Package
from fleet.telemetry import histogram
from fleet.wire import envelope
from ota.metadata import statement
from ota.metadata.statement import Statement, Subject
from ota.verify import artifact as verify
from ota.verify import attestation
from ota.verify.artifact import VerifiedArtifact

MODELS = Path(__file__).parent.parent / "data" / "models"
IMAGE = InputSpec(name="image", dtype="float32", shape=[None, 3, 8, 8])
RAW_IMAGE = msgspec.structs.replace(
    IMAGE,
    preprocessing=Preprocessing(
        raw_dtype="uint8", cast="float32", subtract=[128.0], divide=[64.0],
        raw_layout="NHWC", layout="NCHW",
    ),
)  # fmt: skip
PROBS = TensorSpec(name="probs", dtype="float32", shape=[None, 4])
DTYPES = manifests.DTYPES
_NHWC = [0, 2, 3, 1]


def images(n: int, *, seed: int = 0) -> np.ndarray:
    """Images as the model takes them, shape (n, 3, 8, 8), float32."""
    return np.random.default_rng(seed).normal(0, 1, (n, 3, 8, 8)).astype(np.float32)


def make(file: str, inputs: list[InputSpec], outputs: list[TensorSpec], /, **changes) -> Package:
    """A package around a model file; `changes` are fields of the manifest or golden arrays."""
    payload = (MODELS / file).read_bytes()
    golden_inputs = changes.pop("golden_inputs", {})
    golden_outputs = changes.pop("golden_outputs", {})
    suffix = Path(file).suffix
    fields = {
        "format": manifests.FORMAT,
        "model": "classify",
        "version": "1",
        "task": "image classification, 4 classes",
        "target": "test",
        "hardware_classes": ["cpu-x86-64", "cpu-arm64"],
        "runtime": {".onnx": "onnxruntime", ".tflite": "litert"}[suffix],
        "runtime_version": "1",
        "recipe": "fp32",
        "source_sha256": hashlib.sha256(b"source").hexdigest(),
        "inputs": inputs,
        "outputs": outputs,
        "payload": Payload(
            member=f"model{suffix}",
            sha256=hashlib.sha256(payload).hexdigest(),
            size_bytes=len(payload),
        ),
        "tolerance": Tolerance(cosine_min=0.99, max_abs=0.05),
        "metric": Metric(name="top1", value=0.9, reference=0.9),
        "status": "accepted",
        "licence": "Apache-2.0",
    }
    return Package(
        manifest=Manifest(**(fields | changes)),
        payload=payload,
        golden_inputs=golden_inputs,
        golden_outputs=golden_outputs,
    )


def probabilities(batch: np.ndarray) -> np.ndarray:
    """The answers of the classify models in numpy, from the same seeded weights."""
    weights = np.random.default_rng(7).normal(0, 2, (4, 3)).astype(np.float32)
    logits = batch.mean((2, 3)) @ weights.T + np.array([0.1, -0.2, 0.3, 0.0], np.float32)
    exps = np.exp(logits - logits.max(1, keepdims=True))
    return (exps / exps.sum(1, keepdims=True)).astype(np.float32)


def classify(file: str = "classify.onnx", **changes) -> Package:
    """The classifier, with golden vectors and one watched feature.

    Args:
        file: ``classify.onnx``, ``classify.tflite``, ``classify_int8.tflite`` or ``fixed.tflite``.
        changes: fields of the manifest to replace.
    """
    tensors = {
        "classify.tflite": ("serving_default_image:0", "StatefulPartitionedCall:0", ""),
        "classify_int8.tflite": ("image_int8", "probs_int8", "int8"),
        "fixed.tflite": ("image", "StatefulPartitionedCall:0", ""),
    }.get(file)
    bound = {}
    if tensors:
        image, probs, file_dtype = tensors
        bound = {
            "input_bindings": [
                Binding(name="image", tensor=image, permutation=_NHWC, file_dtype=file_dtype)
            ],
            "output_bindings": [Binding(name="probs", tensor=probs, file_dtype=file_dtype)],
            "fixed_batch": file == "fixed.tflite",
        }
    golden = images(8, seed=1)
    reference = golden.mean((1, 2, 3)).astype(np.float64)
    fields = {
        "golden_inputs": {"image": golden},
        "golden_outputs": {"probs": probabilities(golden)},
        "features": [
            Feature(
                name="input:image:mean",
                reference=histogram.of(histogram.edges_of(reference, 4), reference),
            )
        ],
    }
    return make(file, [IMAGE], [PROBS], **(bound | fields | changes))


def host_key(name: str = "builder") -> Ed25519PrivateKey:
    """The key of a compiling host; the same name is the same key."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def host_pem(name: str = "builder") -> str:
    """Its public key."""
    public = host_key(name).public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem.decode()


def attested(content: Package, *, host: str = "builder") -> Package:
    """The package with a host's statement about its members."""
    members = package.digests(io.BytesIO(package.write(content))).members
    made = Statement(
        subject=[Subject(name=n, digest={"sha256": d}) for n, d in members.items()],
        predicate_type=attestation.PROVENANCE,
        predicate={"made": "by a test"},
    )
    sealed = statement.seal(made, envelope.signer(host_key(host)))
    return msgspec.structs.replace(content, attestation=sealed)


def to_be_built(**changes) -> Package:
    """The classifier as an ONNX model that a device builds its engine from."""
    return classify("classify.onnx", runtime="tensorrt", **changes)


def verified(content: Package) -> VerifiedArtifact:
    """The package, as this process has just built it."""
    return verify.from_build(content)


def save(content: Package, path: Path) -> tuple[str, int]:
    """Write the artifact's file; returns its sha256 and length."""
    data = package.write(content)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest(), len(data)
