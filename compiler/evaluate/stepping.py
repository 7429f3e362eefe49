"""A runtime around another that runs a model with states over sequences, feeding its own answers back.

Rules:
- Each sequence begins with the state that it is given; what one leaves never reaches the next.
- A candidate is fed its own states, not the fp32 model's: its errors add up as they would on a device.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from agent.runtimes.port import Runtime, Tensors
from compiler.graph.sequences import SEQUENCE

Array = NDArray[np.generic]


class Stepping:
    """Runs what `compiler.graph.sequences.Sequences.feed` hands over.

    Args:
        inner: runs one step.
        states: by state, the output that becomes it.
    """

    def __init__(self, inner: Runtime, states: Mapping[str, str]) -> None:
        self._inner, self._states = inner, dict(states)

    def run(self, feeds: Tensors) -> dict[str, Array]:
        """Infer sequences; each output has a row per step.

        Args:
            feeds: inputs ``[steps, ...]``, first states ``[sequences, ...]``, ``sequence`` ``[steps]``.
        """
        inputs = {n: a for n, a in feeds.items() if n not in self._states and n != SEQUENCE}
        rows: list[dict[str, Array]] = []
        current, state = -1, {}
        for step, number in enumerate(feeds[SEQUENCE].tolist()):
            if number != current:
                current = number
                state = {name: feeds[name][number] for name in self._states}
            answers = self._inner.run({n: a[step] for n, a in inputs.items()} | state)
            state = {name: answers[output] for name, output in self._states.items()}
            rows.append(answers)
        return {name: _joined([row[name] for row in rows]) for name in rows[0]}

    def close(self) -> None:
        """Free the inner runtime."""
        self._inner.close()


def _joined(answers: list[Array]) -> Array:
    """A row per step: along a batch axis of 1 where there is one, else along a new axis."""
    if answers[0].shape[:1] == (1,):
        return np.concatenate(answers)
    return np.stack(answers)
