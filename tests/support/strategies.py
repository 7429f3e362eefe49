"""Hypothesis strategies for what fleet members say to each other."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fleet.telemetry import histogram
from fleet.telemetry.histogram import Histogram
from fleet.telemetry.window import LATENCY_EDGES_MS, DriftVerdict, Window
from fleet.wire import messages as m

EDGES = {"input:x:mean": (-1.0, 0.0, 0.5), "output:y:confidence": (0.25,), "input:x:std": ()}

ids = st.text("abcXYZ019_-", min_size=1, max_size=64)
names = st.text(max_size=12)
counts = st.integers(0, 2**53)
times = st.floats(0, 4e9)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)

# Multiples of 1/1024 in a small range: sums of them are exact in floats, so merging can be compared exactly.
dyadic = st.integers(-(2**20), 2**20).map(lambda n: n / 1024)


def histograms(edges: tuple[float, ...]) -> st.SearchStrategy[Histogram]:
    values = st.lists(dyadic | st.sampled_from([np.nan, np.inf, -np.inf, 1e200]), max_size=8)
    return values.map(lambda listed: histogram.of(edges, np.array(listed, np.float64)))


features = st.fixed_dictionaries({}, optional={k: histograms(e) for k, e in EDGES.items()})

verdicts = st.builds(
    DriftVerdict,
    changed=st.booleans(),
    harmful=st.booleans(),
    score=st.integers(0, 4096).map(lambda n: n / 256),
    feature=st.sampled_from(["", *EDGES]),
)


def windows(model: str = "digits", release: str = "1") -> st.SearchStrategy[Window]:
    return st.builds(
        Window,
        boot_epoch=st.text("0123456789abcdef", min_size=1, max_size=8),
        seq=counts,
        model=st.just(model),
        release=st.just(release),
        sha256=st.just("ab" * 32),
        started=st.integers(0, 10_000).map(float),
        ended=st.integers(10_000, 20_000).map(float),
        inferences=st.integers(0, 2**40),
        errors=st.integers(0, 2**40),
        features=features,
        latency_ms=st.none() | histograms(LATENCY_EDGES_MS),
        classes=st.dictionaries(st.integers(0, 9), st.integers(0, 2**40), max_size=4),
        drift=st.none() | verdicts,
        merged=st.integers(1, 1000),
    )


facts = st.dictionaries(names, names, max_size=3)
figures = st.dictionaries(names, st.none() | st.floats(-1e300, 1e300), max_size=3)

_FIELDS: dict[type, dict[str, st.SearchStrategy[Any]]] = {
    m.Reported: {"figures": figures, "facts": facts},
    m.EngineOffer: {"environment": facts},
    m.Event: {"figures": figures},
    m.TelemetryBatch: {"windows": st.lists(windows(), max_size=3)},
    m.Desired: {
        "image": st.dictionaries(names, st.binary(max_size=30), max_size=3),
        "director": st.dictionaries(names, st.binary(max_size=30), max_size=3),
    },
}

KINDS: tuple[type[m.Message], ...] = (
    m.Birth, m.Status, m.Reported, m.Event, m.TelemetryBatch, m.BlocksWanted, m.MetadataWanted, m.CertificateWanted, m.CertificateGiven,
    m.EngineOffer, m.EngineFailure, m.EngineBlock,
    m.Desired, m.Refusal, m.Block, m.Ack, m.Command,
)  # fmt: skip


# What JSON can carry: finite floats, and integers that fit 64 bits.
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))


def messages(kind: type[m.Message]) -> st.SearchStrategy[Any]:
    """Messages of a kind, every field drawn, optional ones too."""
    chosen = _FIELDS.get(kind, {})
    drawn = {k: st.from_type(hint) for k, hint in _hints(kind).items() if k not in chosen}
    return st.builds(kind, **drawn, **chosen)


def _hints(kind: type) -> dict[str, Any]:
    return {k: v for k, v in typing.get_type_hints(kind).items() if k in kind.__struct_fields__}
