"""Writes the lists of TensorRT's names beside this file, from the published bindings themselves.

The Python bindings of TensorRT are on the package index, the libraries behind them are not. The bindings
register all their classes when they are imported and call into the libraries only later; so they are
imported here with empty libraries in place of the real ones, and asked for their names.

Usage: ``python tests/data/tensorrt/write_names.py`` (needs a C compiler; on x86-64, Python 3.11).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = ("10.3.0", "11.0.0.114", "11.4.0.106")
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip

NAMES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as tensorrt
def public(thing):
    return [name for name in dir(thing) if not name.startswith("_")]
found = {name: getattr(tensorrt, name) for name in public(tensorrt)}
classes = {}
def visit(prefix, names):
    for name, value in names.items():
        if isinstance(value, type):
            inner = {n: getattr(value, n) for n in public(value)}
            classes[prefix + name] = sorted(inner)
            visit(prefix + name + ".", {n: v for n, v in inner.items() if isinstance(v, type)})
visit("", found)
print(json.dumps({"module": sorted(found), "classes": classes}))
"""


def names(version: str, folder: Path) -> dict[str, object]:
    """All public names of one version's module and of its classes."""
    major = version.partition(".")[0]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    subprocess.run([*pip, "-d", folder, f"tensorrt-cu12-bindings=={version}"], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    source = folder / "empty.c"
    source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    for library in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin"):
        file = f"{library}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", folder / file, source]
        subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, "-c", NAMES, folder],
        check=True, capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(folder)},
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


def main() -> None:
    """Write one file per version."""
    for version in VERSIONS:
        with tempfile.TemporaryDirectory() as folder:
            found = names(version, Path(folder))
        source = f"the published package tensorrt-cu12-bindings {version}, by write_names.py"
        text = json.dumps({"version": version, "source": source, **found}, indent=0, sort_keys=True)
        (HERE / f"{version}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
