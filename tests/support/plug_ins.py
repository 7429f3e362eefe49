"""Plug-ins around a runtime that misbehave, for tests; named in configuration as ``support.plug_ins:NAME``."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Around:
    """Runs `before` and `after` around each run of `inner`."""

    inner: Any
    before: Any = None
    after: Any = None

    def run(self, feeds):
        if self.before:
            self.before(feeds)
        answers = self.inner.run(feeds)
        return self.after(answers) if self.after else answers

    def close(self) -> None:
        self.inner.close()


def slow(runtime, _artifact):
    """Each run takes 0.2 s more."""
    return Around(runtime, before=lambda _: time.sleep(0.2))


def slower(runtime, _artifact):
    """Each run takes 2 s more."""
    return Around(runtime, before=lambda _: time.sleep(2))


def refuse(_runtime, _artifact):
    """Cannot be put around anything."""
    raise ValueError("this plug-in refuses")


def segfault(runtime, _artifact):
    """A native crash on the first run."""
    return Around(runtime, before=lambda _: ctypes.string_at(0))


def segfault_on_large_batch(runtime, _artifact):
    """A native crash on a batch of 13."""
    return Around(
        runtime,
        before=lambda feeds: ctypes.string_at(0) if len(next(iter(feeds.values()))) == 13 else None,
    )


def killed_at_load(_runtime, _artifact):
    """As the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang(runtime, _artifact):
    """Never answers."""
    return Around(runtime, before=lambda _: time.sleep(3600))


def hang_at_load(_runtime, _artifact):
    """Never loads."""
    time.sleep(3600)


def wrong(runtime, _artifact):
    """Answers that are not the model's."""
    return Around(runtime, after=lambda answers: {k: 1 - v for k, v in answers.items()})


def broken(runtime, _artifact):
    """A plug-in with a mistake: raises what is not ours."""
    return Around(runtime, before=lambda feeds: feeds["no such input"])
