"""A complete plug-in of a user: a target, a recipe and a toolchain for an NPU that nobody ships.

Its compiler wraps a LiteRT file in a header. Tests replace the driver by others that misbehave.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

TARGET = """\
title = "Acme NPU, by the plug-in's own compiler"
hardware_classes = ["acme-board"]
memory_mib = 256
max_size_mib = 16
ladder = [["acme_litert_dynamic_wi8"]]
fallback = [["litert_fp32"]]

[runtime_versions]
acme = ">=1.0,<2"
litert = ">=1.2,<3"

[operators]
acme = ["acme"]

[engine.settings]
cores = 2
"""

OPERATORS = """\
title = "What the Acme NPU runs"
source = "its compiler"
operators = ["acme-npu"]
"""

RECIPE = """\
[acme_litert_dynamic_wi8]
title = "int8 for the Acme NPU"
backend = "finish"
base = "litert_dynamic_wi8"
toolchain = "acme"
runtime = "acme"
member = "model.acme"
settings.strip = true
"""

TOOLCHAIN = """\
title = "Acme NPU binaries"
driver = "acme_driver.py"
modules = ["acme_format.py"]

[limits]
wall_s = {wall_s}
cpu_s = {cpu_s}
memory_mib = {memory_mib}
"""

DRIVER = """\
import os, sys, json, signal, subprocess, time
from pathlib import Path

import acme_format


def probe(inputs, outputs, options):
    return {"modules": ["acme_format"], "version": acme_format.VERSION}


def finish(inputs, outputs, options):
    payload = (inputs / "model.tflite").read_bytes()
    assert options["cores"] == 2 and options["strip"] is True
    (outputs / "model.acme").write_bytes(acme_format.wrap(payload))
    return {
        "files": {"model": "model.acme"},
        "version": acme_format.VERSION,
        "operators": {"acme-npu": 1},
    }


OPERATIONS = {"probe": probe, "finish": finish}
"""

FORMAT = """\
VERSION = "1.4"


def wrap(payload):
    return b"ACME" + len(payload).to_bytes(8, "little") + payload
"""


def write(folder: Path, *, wall_s: float = 60, cpu_s: float = 60, memory_mib: int = 512) -> Path:
    """Write the plug-in below `folder`, and return what ``OUTRIDER_PROFILES`` names."""
    limits = {"wall_s": wall_s, "cpu_s": cpu_s, "memory_mib": memory_mib}
    texts = {
        "targets/acme-npu.toml": TARGET,
        "operators/acme.toml": OPERATORS,
        "recipes/acme.toml": RECIPE,
        "toolchains/acme.toml": TOOLCHAIN.format(**limits),
        "toolchains/acme_driver.py": DRIVER,
        "toolchains/acme_format.py": FORMAT,
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def misbehave(folder: Path, body: str) -> None:
    """Let the driver's ``finish`` do something else."""
    head, _, _ = DRIVER.partition("def finish")
    code = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    (folder / "toolchains/acme_driver.py").write_text(
        f"{head}def finish(inputs, outputs, options):\n{code}\n\n\n"
        'OPERATIONS = {"probe": probe, "finish": finish}\n'
    )
