#!/usr/bin/env python3
"""Write a model folder (`outrider.toml` beside model and data) for each model of a corpus.

usage: write_folders.py CORPUS OUT [CASE...]

A corpus case is a folder with model.onnx, calib.npz, test.npz and meta.json (task, feed, metric). The data
files are linked where the file system allows it, else copied.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

BUDGET = 0.01
"""Share of the fp32 model's metric that may be lost."""


ULTRAFACE = '''"""F1 of detected faces against the fp32 model's, matched at an overlap of a half."""

import numpy as np


def f1(run, data):
    images, boxes = data["input"], data["teacher_box"]
    rows = []
    for number in range(len(images)):
        answer = run({"input": images[number : number + 1]})
        found = detections(answer["scores"][0], answer["boxes"][0])
        truth = boxes[data["teacher_image"] == number]
        hits = matches(found, truth)
        rows.append([hits, len(found) - hits, len(truth) - hits])
    return np.array(rows)


def f1_of(rows):
    hits, wrong, missed = rows.sum(0)
    return 2 * hits / max(1, 2 * hits + wrong + missed)


f1.reduce = f1_of


def detections(scores, boxes):
    sure = scores[:, 1] > 0.7
    scores, boxes = scores[sure, 1], boxes[sure]
    left, kept = np.argsort(-scores), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlap(boxes[best][None], boxes[left])[0] < 0.4]
    return boxes[kept].reshape(-1, 4)


def matches(found, truth):
    overlaps, used = overlap(found, truth), set()
    for row in overlaps:
        for column in np.argsort(-row):
            if row[column] >= 0.5 and column not in used:
                used.add(column)
                break
    return len(used)


def overlap(a, b):
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    size = np.clip(high - low, 0, None)
    both = size[..., 0] * size[..., 1]
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return both / np.maximum(area_a[:, None] + area_b[None] - both, 1e-9)
'''

AUTOENCODER = '''"""Area under the ROC curve of a clip's mean reconstruction error."""

import numpy as np


def auc(run, data):
    name = INPUT
    errors = []
    for start in range(0, len(data[name]), 64):
        x = data[name][start : start + 64]
        answer = next(iter(run({name: x}).values()))
        errors.append(((x.astype(np.float32) - answer) ** 2).mean(1))
    clip, label = data["clip"], data["label"]
    score = np.bincount(clip, np.concatenate(errors), len(label)) / np.bincount(clip, minlength=len(label))
    good, bad = score[label == 0], score[label == 1]
    return float((bad[:, None] > good[None]).mean() + (bad[:, None] == good[None]).mean() / 2)
'''

STREAMING_VAD = '''"""Area under the ROC curve per frame of a streaming voice detector that carries its state."""

import numpy as np


def auc(run, data):
    score = []
    offset = data["offset"]
    for start, end in zip(offset[:-1], offset[1:]):
        audio = data["audio"][start:end].astype(np.float32) / 32768.0
        state, context = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
        for frame in range(len(audio) // 512):
            x = np.concatenate([context, audio[frame * 512 : (frame + 1) * 512]])[None]
            feed = {"input": x, "state": state, **EXTRA}
            answer = list(run(feed).values())
            score.append(float(answer[0].reshape(-1)[0]))
            state, context = answer[1], x[0, -64:]
    score, label = np.array(score), data["frame_label"]
    score, label = score[label >= 0], label[label >= 0]
    good, bad = score[label == 0], score[label == 1]
    ranks = np.argsort(np.argsort(np.concatenate([good, bad]), kind="mergesort"), kind="mergesort") + 1
    return float((ranks[len(good) :].sum() - len(bad) * (len(bad) + 1) / 2) / (len(good) * len(bad)))
'''


def main(arguments: list[str]) -> None:
    """Write the folders."""
    if len(arguments) < 2:
        sys.exit(__doc__)
    corpus, out, *cases = arguments
    for meta in sorted(Path(corpus).glob("*/meta.json")):
        if not cases or meta.parent.name in cases:
            described = json.loads(meta.read_text())
            if (meta.parent / "model.onnx").is_file():
                print(write(meta.parent, described, Path(out) / described["name"]))


def write(case: Path, meta: dict[str, Any], folder: Path) -> Path:
    """Write one model folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in (
        ("model.onnx", "model.onnx"),
        ("calib.npz", "calibration.npz"),
        ("test.npz", "evaluation.npz"),
    ):
        _place(case / source, folder / target)
    metric, module = metric_of(meta, list(meta["feed"]))
    if module:
        (folder / "corpus_metric.py").write_text(module)
    lines = [
        f"name = {json.dumps(meta['name'])}",
        'version = "1"',
        f"task = {json.dumps(meta['task'])}",
        f"licence = {json.dumps(str(meta.get('license', {}).get('model', '')) or 'see meta.json')}",
        "",
        "[metric]",
        f"name = {json.dumps(metric)}",
        f"budget = {BUDGET * fp32(meta):.4f}",
        "",
        "[data]",
        f"max_batch = {meta.get('max_batch', 64)}",
    ]
    with np.load(case / "calib.npz", allow_pickle=False) as arrays:
        dtypes = {name: arrays[name].dtype.name for name in arrays.files}
    for name, feed in meta["feed"].items():
        lines += input_lines(name, feed, dtypes.get(name, ""))
    (folder / "outrider.toml").write_text("\n".join(lines) + "\n")
    return folder


def fp32(meta: dict[str, Any]) -> float:
    """The fp32 model's metric as the corpus has it; 1 where it has none."""
    figures = list((meta.get("baseline", {}).get("fp32_onnxruntime") or {}).values())
    return float(figures[0]) if figures else 1.0


def input_lines(name: str, feed: dict[str, Any], dtype: str) -> list[str]:
    """The table of one input; none where applications send the tensor itself."""
    cast = feed.get("cast", "float32")
    if not dtype or dtype == cast:
        return []
    lines = ["", f"[inputs.{json.dumps(name)}]", f'dtype = "{dtype}"', f'cast = "{cast}"']
    if feed.get("sub", 0) != 0:
        lines.append(f"subtract = {json.dumps(feed['sub'])}")
    if feed.get("div", 1) != 1:
        lines.append(f"divide = {json.dumps(feed['div'])}")
    return lines


def metric_of(meta: dict[str, Any], inputs: list[str]) -> tuple[str, str]:
    """The metric's name in our terms, and the module that it needs beside the model."""
    name = meta["metric"]["name"]
    if name == "det_f1_vs_teacher":
        return "corpus_metric:f1", ULTRAFACE
    if name == "clip_mse_auc":
        return "corpus_metric:auc", AUTOENCODER.replace("INPUT", repr(inputs[0]))
    if name == "frame_auc_stateful":
        return "corpus_metric:auc", STREAMING_VAD.replace(", **EXTRA", "")
    return name, ""


def _place(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main(sys.argv[1:])
