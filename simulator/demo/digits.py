"""The demo's own model: real handwritten digits, a small CNN trained in seconds, no download.

The data are the 1,797 8x8 images of the UCI "Optical Recognition of Handwritten Digits" test set that
scikit-learn ships (https://archive.ics.uci.edu/dataset/80, CC BY 4.0). The convolution's filters are
the centres of normalised 3x3 patches (Coates, Lee, Ng: "An Analysis of Single-Layer Networks in
Unsupervised Feature Learning", AISTATS 2011); the head is a multi-layer perceptron.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

TRAINING = 1000
CALIBRATION = 297
"""Both leave 500 images that neither training nor calibration has seen."""

_TOML = """\
name = "digits"
version = "{version}"
task = "image classification, 10 handwritten digits"
licence = "CC-BY-4.0 (data), Apache-2.0 (model)"

[metric]
name = "top1"
budget = 0.01

[data]
calibration = "calibration.npz"
evaluation = "evaluation.npz"

[inputs.image]
dtype = "uint8"
cast = "float32"
divide = 16
layout = "NHWC->NCHW"
"""


def write_folder(folder: Path, *, version: int = 1) -> Path:
    """Train version 1 or a wider version 2 and write the model folder.

    Args:
        folder: made when it does not exist.
        version: also the seed; 2 has more filters and another head.

    Returns:
        The folder: ``outrider.toml``, ``model.onnx``, ``calibration.npz``, ``evaluation.npz``.
    """
    import onnx
    from threadpoolctl import threadpool_limits

    images, labels = _load()
    order = np.random.default_rng(7).permutation(len(images))
    train, calibration, evaluation = np.split(order, [TRAINING, TRAINING + CALIBRATION])
    size = {"filters": 12 + 8 * version, "hidden": 32 + 16 * version}
    with threadpool_limits(1):  # the work is so small that more threads only wait for each other
        model = _train(images[train], labels[train], **size, seed=version)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    for name, rows in (("calibration", calibration), ("evaluation", evaluation)):
        np.savez_compressed(folder / f"{name}.npz", image=images[rows], label=labels[rows])
    (folder / "outrider.toml").write_text(_TOML.format(version=version), encoding="utf-8")
    return folder


def _load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (1797, 8, 8, 1) of 0..16, labels (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.uint8)[..., None], digits.target.astype(np.int64)


def _train(
    images: NDArray[np.uint8], labels: NDArray[np.int64], *, filters: int, hidden: int, seed: int
) -> Any:
    from sklearn.cluster import KMeans
    from sklearn.neural_network import MLPClassifier

    x: Array = images[..., 0].astype(np.float32) / np.float32(16)
    patches = _patches(np.pad(x, ((0, 0), (1, 1), (1, 1)))).reshape(-1, 9)
    patches = patches[patches.std(axis=1) > 0.05]
    patches = patches - patches.mean(axis=1, keepdims=True)
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    centres = KMeans(filters, n_init=1, random_state=seed).fit(patches).cluster_centers_
    kernels = np.asarray(centres, np.float32).reshape(filters, 1, 3, 3)
    x, labels = _shifted(x, labels)
    features = _pooled(x, kernels).reshape(len(x), -1)
    head = MLPClassifier(
        (hidden,), alpha=1e-2, max_iter=400, tol=2e-3, n_iter_no_change=5, random_state=seed
    )
    head.fit(features, labels)
    return _to_onnx(kernels, head.coefs_, head.intercepts_)


def _shifted(x: Array, labels: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """The images as they are, and moved by one pixel each way: five times as many."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = [padded[:, i : i + 8, j : j + 8] for i, j in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))]
    return np.concatenate(windows), np.tile(labels, len(windows))


def _patches(x: Array) -> Array:
    """All 3x3 patches of padded images (n, 10, 10): shape (n, 8, 8, 3, 3)."""
    return cast("Array", np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)))


def _pooled(x: Array, kernels: Array) -> Array:
    """Convolution, ReLU and 2x2 max pooling as the exported graph does them: (n, filters, 4, 4)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    maps = np.einsum("nhwij,fij->nfhw", _patches(padded), kernels[:, 0], optimize=True)
    maps = np.maximum(maps, 0)
    return cast("Array", maps.reshape(*maps.shape[:2], 4, 2, 4, 2).max(axis=(3, 5)))


def _to_onnx(kernels: Array, weights: list[Array], biases: list[Array]) -> Any:
    from onnx import TensorProto, checker, helper, numpy_helper

    tensors = {
        "kernels": kernels,
        "hidden_w": weights[0].astype(np.float32),
        "hidden_b": biases[0].astype(np.float32),
        "out_w": weights[1].astype(np.float32),
        "out_b": biases[1].astype(np.float32),
    }
    node = helper.make_node
    graph = helper.make_graph(
        [
            node(
                "Conv",
                ["image", "kernels"],
                ["conv"],
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                name="conv",
            ),
            node("Relu", ["conv"], ["conv_relu"], name="conv_relu"),
            node(
                "MaxPool", ["conv_relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 2], name="pool"
            ),
            node("Flatten", ["pool"], ["flat"], axis=1, name="flatten"),
            node("Gemm", ["flat", "hidden_w", "hidden_b"], ["hidden"], name="hidden"),
            node("Relu", ["hidden"], ["hidden_relu"], name="hidden_relu"),
            node("Gemm", ["hidden_relu", "out_w", "out_b"], ["logits"], name="logits"),
            node("Softmax", ["logits"], ["probabilities"], axis=1, name="softmax"),
        ],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="outrider"
    )
    checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("digits"))
