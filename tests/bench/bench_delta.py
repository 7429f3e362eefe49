"""What is sent for the next version of a model: our ways against ``zstd --patch-from -19`` and bsdiff4, on the same files.

For each model of the corpus that is named, a head-only and a full fine-tune (`delta_finetunes`) are compiled by each
recipe, and so is the model itself; the artifact of the one is sent to a device that holds the other's. Columns are bytes,
and shares of the artifact; the limit is 1.1 times the shorter peer's delta and 32 KiB.

``scales`` tells what quantizing with the version before's scales would change: the model's weights as int8, one scale per
channel, by their own scales and by those of the model before; how much longer the rounding error is, what share of the
weights would be cut off, and the delta's length.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bsdiff4
import delta_finetunes
import harness
import numpy as np
import onnx
import zstandard
from bsdiff4 import core
from numpy.typing import NDArray
from onnx import numpy_helper

from fleet.artifact import package
from ota.delta import build, chunks
from ota.transfer import blocks

HERE = Path(__file__).resolve()
CORPUS = Path(
    os.environ.get("OUTRIDER_CORPUS") or HERE.parents[3] / "shared" / "corpus" / "dev"
).resolve()
FOLDERS = HERE.parents[1] / "corpus" / "write_folders.py"
CASES = {
    "ic01_resnet8_cifar10": ("litert_static_wi8_ai8", "litert_fp32"),
    "magika_v3_3": ("litert_fp32",),
}
KINDS = ("head", "full")
SLACK_BYTES = 32 << 10
LEVELS = 127


def compiled(folder: Path, recipe: str, out: Path) -> bytes:
    """The artifact of a model folder by one recipe; empty where no gate lets it through."""
    command = [
        sys.executable,
        "-m",
        "fleet.cli.root",
        "compile",
        str(folder),
        "--target",
        "litert-cpu",
    ]
    subprocess.run(
        [*command, "--recipe", recipe, "--out", str(out)], capture_output=True, check=False
    )
    made = sorted(out.glob("*.outrider"))
    return made[0].read_bytes() if made else b""


def row(old: bytes, new: bytes) -> dict[str, Any]:
    """Every way from `old` to `new`, in bytes."""
    delta = build.between(
        old, new, old_spans=package.spans(old), new_spans=package.spans(new),
        search=lambda a, b: core.diff(a, b)[0],
    )  # fmt: skip
    base = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    options = zstandard.ZstdCompressionParameters.from_level(
        19, window_log=27, enable_ldm=True, source_size=len(new), dict_size=len(old)
    )
    sizes = {
        "full": len(new),
        "compressed": len(build.compressed(new)),
        "chunks": by_chunks(old, new),
        "delta": len(delta),
        "zstd_patch_from_19": len(
            zstandard.ZstdCompressor(dict_data=base, compression_params=options).compress(new)
        ),
        "bsdiff4": len(bsdiff4.diff(old, new)),
    }
    best = min(sizes["zstd_patch_from_19"], sizes["bsdiff4"])
    return {
        "bytes": sizes,
        "delta_share": round(len(delta) / len(new), 3),
        "ratio_to_best_peer": round(len(delta) / best, 3),
        "within_limit": len(delta) <= 1.1 * best + SLACK_BYTES,
    }


def scales(old: Path, new: Path) -> dict[str, float]:
    """What the scales of the version before would do to the next version's int8 weights."""
    before, after = _weights(old), _weights(new)
    own, reused, base, cut, errors = [], [], [], 0, [0.0, 0.0]
    for name, weights in after.items():
        old_scale, own_scale = _scale(before[name]), _scale(weights)
        base.append(_int8(before[name], old_scale))
        for found, scale, at in ((own, own_scale, 0), (reused, old_scale, 1)):
            found.append(_int8(weights, scale))
            errors[at] += float(((found[-1] * scale - weights) ** 2).sum())
        cut += int((np.abs(weights / old_scale) > LEVELS + 0.5).sum())
    one = b"".join(part.tobytes() for part in base)
    deltas = [
        len(
            build.between(
                one, b"".join(part.tobytes() for part in parts), old_spans={}, new_spans={}
            )
        )
        for parts in (own, reused)
    ]
    return {
        "weights": len(one),
        "delta_own_scales": deltas[0],
        "delta_reused_scales": deltas[1],
        "rms_error_ratio": round((errors[1] / errors[0]) ** 0.5, 4),
        "cut_off_share": round(cut / len(one), 6),
    }


def _weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    tensors = onnx.load(folder / "model.onnx").graph.initializer
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    return {n: v for n, v in values.items() if v.dtype == np.float32 and v.ndim > 1}


def _scale(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    most = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True)
    return np.maximum(most, 1e-12) / LEVELS


def _int8(weights: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.clip(np.rint(weights / scale), -LEVELS, LEVELS).astype(np.int8)


def by_chunks(old: bytes, new: bytes) -> int:
    """The list of chunks, and the blocks that are not covered by them."""
    average, size = chunks.average_for(len(new)), blocks.choose_block_size(len(new))
    cut = chunks.cut(lambda at, n: new[at : at + n], len(new), average_bytes=average)
    listed = chunks.write_list(cut, length_bytes=len(new), average_bytes=average)
    held = chunks.held(chunks.parse_list(listed), [(lambda at, n: old[at : at + n], len(old))])
    bitmap = chunks.covered(held, length_bytes=len(new), block_size_bytes=size)
    missing = sum(min(size, len(new) - index * size) for index in bitmap.missing())
    return len(listed) + missing


def versions(model: str, work: Path) -> dict[str, Path]:
    """The model's folder and those of its fine-tunes."""
    done = [sys.executable, str(FOLDERS), str(CORPUS), str(work), model]
    subprocess.run(done, capture_output=True, check=True)
    base = work / model
    tuned = {
        kind: delta_finetunes.write(base, work / f"{model}-{kind}", kind=kind) for kind in KINDS
    }
    return {"base": base} | tuned


def main() -> None:
    """Run and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", help=f"of the corpus  [default: {tuple(CASES)}]"
    )
    parser.add_argument("--recipe", action="append", help="[default: what suits the model]")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"step": delta_finetunes.STEP, "rows": {}, "scales": {}}
    with tempfile.TemporaryDirectory() as place:
        for model in arguments.model or CASES:
            folders = versions(model, Path(place))
            for kind in KINDS:
                figures["scales"][f"{model} {kind}"] = scales(folders["base"], folders[kind])
            for recipe in arguments.recipe or CASES[model]:
                made = {
                    kind: compiled(folder, recipe, Path(place) / f"out-{model}-{kind}-{recipe}")
                    for kind, folder in folders.items()
                }
                for kind in KINDS:
                    if made["base"] and made[kind]:
                        figures["rows"][f"{model} {recipe} {kind}"] = row(made["base"], made[kind])
    print(table(figures["rows"]), file=sys.stderr)
    harness.save("delta", figures, "bsdiff4", "zstandard", "numpy")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Rows for a person."""
    names = ("full", "compressed", "chunks", "delta", "zstd_patch_from_19", "bsdiff4")
    lines = [f"{'':52}" + "".join(f"{name:>20}" for name in names)]
    lines += [
        f"{name:52}" + "".join(f"{one['bytes'][column]:>20,}" for column in names)
        for name, one in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
