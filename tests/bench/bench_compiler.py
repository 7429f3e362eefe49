"""The compiler against the bare tools: accuracy on every labelled model, wall time, cache, memory.

One table; everything in it is measured in the same run, on the whole test set, by the same scoring code.

- quality: what the compiler chooses, and the best static int8 candidate of each backend, against fp32,
  ai-edge-quantizer's defaults, ONNX Runtime's static quantization with its defaults (per tensor, and per
  channel), and the reference figure that the corpus gives;
- cache: the same compile again; time: a compile of one recipe against the bare tools by hand, in turns, with
  an empty cache each; memory: of the compiling process over 50 compiles.

The corpus is OUTRIDER_CORPUS, else ../shared/corpus/dev beside the checkout; without one nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import msgspec

from compiler.errors import BuildError
from compiler.evaluate import child, split
from compiler.evaluate.child import Asked
from compiler.recipes.variant import Variant
from compiler.service import compile as compiling
from compiler.service import packing, prepare
from compiler.service.prepare import Prepared
from compiler.service.report import Candidate, Report
from compiler.targets import catalog as targets
from compiler.toolchains import catalog, driver, source, steps
from compiler.toolchains.catalog import Toolchain
from compiler.toolchains.steps import Built
from fleet.artifact import package
from fleet.artifact.package import Package

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
TARGETS = ("litert-cpu", "onnx-cpu")
REFERENCES = ("reference_int8_tflite", "source_int8_tflite")
CACHED_RUNS = 15
MEMORY_RUNS = 50


def main() -> None:
    """Run and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names of corpus cases; all when none is given")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    parser.add_argument("--name", default="compiler", help="of the saved file")
    given = parser.parse_args()
    corpus = Path(
        os.environ.get("OUTRIDER_CORPUS") or HERE.parents[2] / "shared" / "corpus" / "dev"
    )
    if not corpus.is_dir():
        sys.exit(f"{corpus}: expected a corpus folder, found none; set OUTRIDER_CORPUS")
    cases = {path.parent.name for path in corpus.glob("*/model.onnx")}
    if unknown := set(given.models) - cases:
        sys.exit(f"expected cases of {corpus} ({', '.join(sorted(cases))}), found {unknown}")
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as name:
        work = Path(name)
        os.environ["OUTRIDER_CACHE"] = str(work / "cache")
        os.environ["OUTRIDER_COMPILE_KEY"] = str(work / "key.pem")
        writer = HERE.parent / "corpus" / "write_folders.py"
        subprocess.run(
            [sys.executable, writer, corpus, work / "folders", *given.models], check=True
        )
        folders = sorted(path for path in (work / "folders").iterdir() if path.is_dir())
        metas = {folder.name: _meta(corpus, folder.name) for folder in folders}
        figures = {
            "quality": [_quality(folder, metas[folder.name], work) for folder in folders],
            "cached_compile": [_cached(folder, work) for folder in folders],
            "time": [_time(folder, work, given.rounds) for folder in folders if _is_small(folder)],
            "memory": _memory(folders[0], work),
        }
    harness.save(given.name, figures, "onnxruntime", "ai-edge-litert", "onnx", "numpy")


# --- quality ----------------------------------------------------------------------------------------


def _quality(folder: Path, meta: dict[str, Any], work: Path) -> dict[str, Any]:
    out = work / "out" / folder.name
    report = compiling.run(compiling.Request(folder=folder, targets=TARGETS, out=out))
    prepared = prepare.prepare(folder, version="1", work=work / "prepared" / folder.name)
    scorer = _Scorer(prepared, work / "scored" / folder.name)
    fp32 = prepared.reference.result.metric or 0.0
    row: dict[str, Any] = {
        "model": folder.name,
        "metric": prepared.folder.metric.name,
        "fp32": fp32,
    }
    for target in report.targets:
        chosen = target.chosen
        if chosen is None:
            row[target.target] = {"status": target.status, "reason": target.reason}
            continue
        value = scorer.package((out / chosen.path).read_bytes())
        row[target.target] = {
            "chosen": chosen.recipe,
            "value": value,
            "share_of_fp32": round(value / fp32, 4) if fp32 else None,
            "evidence": target.evidence,
            "p50_ms": chosen.latency_ms.p50 if chosen.latency_ms else None,
            "float_p50_ms": target.baseline_ms.p50 if target.baseline_ms else None,
            "kib": round(chosen.payload_size_bytes / 1024),
        }
    row["static_int8_of_ours"] = {t: scorer.best_int8(report, t) for t in TARGETS}
    row["ai_edge_quantizer_defaults"] = scorer.peer(_litert_peer(prepared))
    row["onnxruntime_defaults"] = {
        name: scorer.peer(_onnx_peer(prepared, per_channel=per_channel))
        for name, per_channel in (("per_tensor", False), ("per_channel", True))
    }
    row["reference_int8"] = _reference(meta)
    sys.stderr.write(json.dumps(row) + "\n")
    return row


class _Scorer:
    """Scores files over the whole test set, by the compiler's own child process."""

    def __init__(self, prepared: Prepared, work: Path) -> None:
        self._prepared, self._work = prepared, work
        self._subject = packing.Subject(prepared.folder, prepared.version, prepared.source)
        self._count = 0

    def package(self, data: bytes, *, exact: bool = False) -> float:
        """The metric of an artifact."""
        return self._score(package.read(data), exact=exact)

    def best_int8(self, report: Report, target: str) -> dict[str, Any] | None:
        """The best static int8 candidate, as the peers make, that passed its screen, chosen by that screen alone."""
        found = next(one for one in report.targets if one.target == target)
        static = [c for c in found.candidates if c.precision == "int8" and c.calibrator]
        int8 = [c for c in static if _passed_quality(c)]
        if not int8:
            return None
        best = max(int8, key=_snr)
        built = self._build(best, target)
        return {
            "recipe": best.recipe,
            "kept": len(best.kept),
            "value": self._score(self._provisional(built), exact=best.judged == "exact"),
            "own": self._score(self._provisional(built), exact=True)
            if built.runtime == "onnxruntime"
            else None,
        }

    def peer(self, make: Callable[[], Built]) -> dict[str, Any]:
        """The metric of what a peer makes: on this host's kernels, and its own quality."""
        try:
            content = self._provisional(make())
        except BuildError as error:
            return {"failed": str(error).splitlines()[0][:200]}
        found: dict[str, Any] = {"value": self._score(content, exact=False)}
        if content.manifest.runtime == "onnxruntime":
            found["own"] = self._score(content, exact=True)
        return found

    def _build(self, candidate: Candidate, target: str) -> Built:
        recipes = {recipe.name: recipe for recipe in targets.get(target).candidates}
        recipe = next(r for name, r in recipes.items() if _is_of(candidate, name))
        variant = Variant(
            recipe=recipe,
            calibrator=candidate.calibrator,
            kept=tuple(sorted(cost.name for cost in candidate.kept)),
        )
        return steps.build(variant, self._prepared.workshop, targets.get(target))

    def _provisional(self, built: Built) -> Package:
        return packing.provisional(
            self._subject,
            built,
            golden_inputs=self._prepared.golden_inputs,
            golden_outputs=self._prepared.golden_outputs,
        )

    def _score(self, content: Package, *, exact: bool) -> float:
        self._count += 1
        asked = Asked(
            model_folder=self._prepared.folder.path,
            reference=self._prepared.reference.folder,
            part=split.EVERY,
            arithmetic="exact" if exact else "host",
        )
        result = child.evaluate(content, asked, work=self._work / str(self._count)).result
        if result.error or result.metric is None:
            raise BuildError(result.error or "nothing was scored")
        return result.metric


def _is_of(candidate: Candidate, recipe: str) -> bool:
    kept = f"{len(candidate.kept)}" if candidate.kept else ""
    tails = {f"_{candidate.calibrator}" if candidate.calibrator else ""}
    tails |= {f"{tail}_{refuge}{kept}" for tail in tails for refuge in ("float", "int16") if kept}
    return any(candidate.recipe == recipe + tail for tail in tails)


def _passed_quality(candidate: Candidate) -> bool:
    judged = [g for g in candidate.gates if g.name in {"structure", "parity", "selection"}]
    return bool(judged) and all(gate.passed for gate in judged)


def _snr(candidate: Candidate) -> float:
    outputs = candidate.parity.outputs.values() if candidate.parity else []
    return min((one.snr_db for one in outputs), default=0.0)


def _litert_peer(prepared: Prepared) -> Callable[[], Built]:
    def make() -> Built:
        workshop = prepared.workshop
        start = workshop.litert
        answer = driver.call(
            _peer("litert", "litert_defaults.py"),
            "defaults",
            files={"model.tflite": start.payload, "samples.npz": workshop.calibration},
            options={"inputs": start.info["inputs"]},
        )
        ours = steps.build(
            Variant(recipe=_fp32("litert_fp32")), workshop, targets.get("litert-cpu")
        )
        return replace(
            ours,
            payload=answer.files["model"],
            input_bindings=_moved(ours.input_bindings, answer.info["inputs"]),
            output_bindings=_moved(ours.output_bindings, answer.info["outputs"]),
        )

    return make


def _moved(bindings: list[Any], ends: list[dict[str, Any]]) -> list[Any]:
    """Our float file's bindings on the peer's file: its tensors, by name or else in order, and their dtypes."""
    by_tensor = {end["tensor"]: end for end in ends}
    return [
        msgspec.structs.replace(
            bound,
            tensor=found["tensor"],
            file_dtype="" if found["file_dtype"] == "float32" else found["file_dtype"],
        )
        for bound, end in zip(bindings, ends, strict=True)
        for found in [by_tensor.get(bound.tensor, end)]
    ]


def _onnx_peer(prepared: Prepared, *, per_channel: bool) -> Callable[[], Built]:
    def make() -> Built:
        answer = driver.call(
            _peer("onnx", "onnx_defaults.py"),
            "defaults",
            files={
                "model.onnx": prepared.model.upgraded,
                "samples.npz": prepared.workshop.calibration,
            },
            options={"per_channel": per_channel},
        )
        return Built(runtime="onnxruntime", member="model.onnx", payload=answer.files["model"])

    return make


def _peer(name: str, script: str) -> Toolchain:
    return replace(catalog.get(name), driver=PEERS / script)


def _fp32(name: str) -> Any:
    from compiler.recipes import catalog as recipes

    return recipes.get(name)


def _reference(meta: dict[str, Any]) -> float | None:
    for name in REFERENCES:
        figures = meta.get("baseline", {}).get(name)
        if isinstance(figures, dict) and figures:
            return float(next(iter(figures.values())))
    return None


def _meta(corpus: Path, name: str) -> dict[str, Any]:
    for path in corpus.glob("*/meta.json"):
        found: dict[str, Any] = json.loads(path.read_text())
        if found.get("name") == name:
            return found
    return {}


# --- time and memory --------------------------------------------------------------------------------


def _is_small(folder: Path) -> bool:
    """By hand the float inputs alone are prepared, so models with float inputs; and not for many minutes."""
    return folder.name.startswith(("ic01", "kws01", "mnist8"))


def _time(folder: Path, work: Path, rounds: int) -> dict[str, Any]:
    """One recipe against the bare tools by hand, in turns, each with nothing kept from before."""
    prepared = prepare.prepare(folder, version="1", work=work / "hand" / folder.name)
    files = {
        "model.onnx": prepared.model.upgraded,
        "samples.npz": prepared.workshop.calibration,
        "evaluation.npz": _evaluation(prepared),
    }
    options = {"shapes": source.fixed_shapes(prepared.source.inputs, prepared.source.calibration)}

    def ours() -> None:
        shutil.rmtree(work / "cache", ignore_errors=True)
        compiling.run(
            compiling.Request(
                folder=folder, targets=["litert-cpu"], out=work / "timed",
                recipes=["litert_static_wi8_ai8"], calibrators=["minmax"], fresh=True,
            )
        )  # fmt: skip

    def theirs() -> None:
        driver.call(_peer("litert", "litert_defaults.py"), "by_hand", files=files, options=options)

    seconds = harness.interleaved({"outrider": ours, "by hand": theirs}, rounds=rounds, warmup=1)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "model": folder.name,
        "ratio_to_bare_tools": round(medians["outrider"] / medians["by hand"], 2),
        "raw": {name: harness.summary(times) for name, times in seconds.items()},
    }


def _evaluation(prepared: Prepared) -> bytes:
    from compiler.graph import data

    path = prepared.folder.evaluation
    samples = data.samples(path, data.load(path), prepared.source.inputs)
    return source.sample_file(samples, samples.count)


def _cached(folder: Path, work: Path) -> dict[str, Any]:
    """The whole compile again, as it was done for its quality."""
    request = compiling.Request(folder=folder, targets=TARGETS, out=work / "cached")
    compiling.run(request)
    times = []
    for _ in range(CACHED_RUNS):
        started = time.perf_counter()
        compiling.run(request)
        times.append(time.perf_counter() - started)
    return {"model": folder.name, "limit_ms": 50, **harness.summary(times)}


def _memory(folder: Path, work: Path) -> dict[str, Any]:
    """Resident memory of this process over many compiles that start anew (drivers' answers are kept)."""
    found = []
    for number in range(MEMORY_RUNS):
        compiling.run(
            compiling.Request(
                folder=folder, targets=["onnx-cpu"], out=work / "memory", recipes=["onnx_fp32"],
                version=str(number), fresh=True,
            )
        )  # fmt: skip
        found.append(_resident_mib())
    half = found[len(found) // 2 :]
    return {
        "compiles": MEMORY_RUNS,
        "after_first_mib": round(found[0], 1),
        "after_last_mib": round(found[-1], 1),
        "growth_of_second_half_mib": round(half[-1] - half[0], 2),
        "peak_mib": round(max(found), 1),
    }


def _resident_mib() -> float:
    text = Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")
    )


if __name__ == "__main__":
    main()
