"""Open windows: a worker's figures gathered until the window closes on time."""

from __future__ import annotations

import msgspec

from agent.core.context import Context
from agent.core.records import SlotContent
from agent.serving.port import Figures
from fleet.artifact.manifest import Feature
from fleet.drift import detect
from fleet.telemetry import merge
from fleet.telemetry.window import DriftVerdict, Window
from fleet.wire.messages import EventLevel


class OpenWindow:
    """The window that one worker is filling.

    Args:
        model: the model's name.
        content: the artifact that the worker runs.
        features: what is watched, of the artifact's manifest.
        opened: monotonic time.
        started: device time.

    Attributes:
        empty: whether no figures came yet.
    """

    def __init__(
        self,
        model: str,
        content: SlotContent,
        features: list[Feature],
        *,
        opened: float,
        started: float,
    ) -> None:
        self._features = features
        self.opened = opened
        self.empty = True
        self._sum = Window(
            boot_epoch="",
            seq=0,
            model=model,
            release=content.release,
            sha256=content.sha256,
            started=started,
            ended=started,
            inferences=0,
        )

    def add(self, figures: Figures, *, at: float) -> None:
        """Take what the worker counted until `at` (device time)."""
        self.empty = False
        part = msgspec.structs.replace(
            self._sum,
            ended=max(at, self._sum.ended),
            inferences=figures.inferences,
            errors=figures.errors,
            features={k: v for k, v in figures.features.items() if v.count + v.not_finite},
            latency_ms=figures.latency_ms if figures.latency_ms.count else None,
            classes=figures.classes,
        )
        self._sum = merge.merge(self._sum, part)

    def close(self, *, boot_epoch: str, seq: int) -> Window:
        """The finished window, with the detector's verdict."""
        verdict = detect.judge(self._features, self._sum.features) if self._features else None
        return msgspec.structs.replace(
            self._sum, boot_epoch=boot_epoch, seq=seq, drift=verdict, merged=1
        )


class DriftWatch:
    """Turns verdicts into events at their edges: when a model begins to drift, and when it ends."""

    def __init__(self) -> None:
        self._last: dict[str, DriftVerdict] = {}

    def see(self, ctx: Context, window: Window) -> None:
        """Compare with the verdict of the model's last window that had enough samples."""
        verdict = window.drift
        if verdict is None or not window.inferences:
            return
        before = self._last.get(window.model, DriftVerdict())
        self._last[window.model] = verdict
        if (verdict.changed, verdict.harmful) == (before.changed, before.harmful):
            return
        code, level = "drift.ended", EventLevel.INFO
        text = "the inputs are like the reference again"
        if verdict.changed or verdict.harmful:
            code = "drift.harmful" if verdict.harmful else "drift.changed"
            level = EventLevel.ERROR if verdict.harmful else EventLevel.WARNING
            text = f"{verdict.feature} differs from the reference, {verdict.score:.2f} times its threshold"
        ctx.event(
            code,
            text,
            level=level,
            model=window.model,
            release=window.release,
            figures={"score": verdict.score, "inferences": float(window.inferences)},
        )
