"""The compiler's own modules as child processes: what runs a model, or reads one that may be hostile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from compiler.toolchains import forks, process
from compiler.toolchains.process import Limits, Outcome

# Not the runtimes: what loading one takes is part of what a model's memory is measured as.
_KIND: Final = forks.Kind(
    command=(sys.executable,),
    modules=("compiler.graph.reading", "compiler.evaluate.worker", "compiler.evaluate.race"),
    environment=process.python_environment,
)


def run(module: str, *arguments: str, folder: Path, limits: Limits) -> Outcome:
    """Run a module's ``main`` in a folder, with arguments."""
    environment = process.python_environment(folder)
    job = forks.Job(
        module=module, arguments=arguments, folder=folder, environment=environment, limits=limits
    )
    return forks.run(_KIND, job)


def expect() -> None:
    """Have the imports done by the time that one is run."""
    forks.expect(_KIND)
