"""The compiler's own modules as child processes: what runs a model, or reads one that may be hostile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from compiler.toolchains import forks, process
from compiler.toolchains.process import Limits, Outcome

_BARE: Final = forks.Kind(
    command=(sys.executable,),
    modules=("compiler.evaluate.worker",),
    environment=process.python_environment,
)
_WARM: Final = forks.Kind(
    command=(sys.executable,),
    modules=(
        "compiler.graph.reading",
        "compiler.evaluate.race",
        "compiler.evaluate.worker",
        "onnxruntime",
        "ai_edge_litert.interpreter",
    ),
    environment=process.python_environment,
)


def run(
    module: str, *arguments: str, folder: Path, limits: Limits, with_runtimes: bool = True
) -> Outcome:
    """Run a module's ``main`` in a folder, with arguments.

    Args:
        module: of the compiler.
        arguments: of its command line.
        folder: its current one.
        limits: what it may use.
        with_runtimes: False where loading a runtime belongs to what is measured.
    """
    environment = process.python_environment(folder)
    job = forks.Job(
        module=module, arguments=arguments, folder=folder, environment=environment, limits=limits
    )
    return forks.run(_WARM if with_runtimes else _BARE, job)


def expect() -> None:
    """Have the imports done by the time that one is run."""
    forks.expect(_WARM)
    forks.expect(_BARE)
