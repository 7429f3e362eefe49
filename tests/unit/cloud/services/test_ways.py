"""Ways of sending less: what is built, what it is said to cost, and whom it is offered to."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from support.clouds import Cloud

from cloud.services import ways
from fleet.registry.repositories import Models, Ways
from fleet.registry.tables import Way
from ota.delta import build
from ota.delta.apply import apply


def built(cloud: Cloud) -> int:
    pairs = 0
    while ways.build_next(cloud.context):
        pairs += 1
    return pairs


def two_releases(cloud: Cloud) -> tuple[dict[str, str], dict[str, str]]:
    one = cloud.release("1")
    cloud.clock.now += 60.0
    return one, cloud.release("2")


def rows_to(cloud: Cloud, result: str) -> dict[tuple[str, str], Way]:
    with cloud.context.read() as session:
        return {(row.kind, row.base): row for row in Ways(session).to(result)}


def test_each_pair_is_built_once_and_makes_the_artifact(cloud: Cloud):
    first, second = (releases["onnx-cpu"] for releases in two_releases(cloud))
    assert built(cloud) == 6, "two targets: compressed for each version, and a delta to the second"
    assert built(cloud) == 0
    rows = rows_to(cloud, second)
    assert set(rows) == {(k, b) for k in ("delta", "chunks") for b in ("", first)}
    assert set(rows_to(cloud, first)) == {("delta", ""), ("chunks", "")}
    delta, blobs = rows["delta", first], cloud.context.blobs
    base = blobs.read(first)
    pieces = apply(
        io.BytesIO(blobs.read(delta.sha256)), lambda at, n: base[at : at + n],
        base_sha256=first, sha256=second, length_bytes=blobs.size(second),
    )  # fmt: skip
    assert hashlib.sha256(b"".join(pieces)).hexdigest() == second
    assert delta.cost_bytes >= delta.length_bytes + delta.blocks_length_bytes


def test_a_device_is_told_what_is_worth_it_cheapest_first(cloud: Cloud):
    first, second = (releases["onnx-cpu"] for releases in two_releases(cloud))
    with cloud.context.read() as session:
        artifact = Models(session).find_artifact(second)
        assert artifact is not None
        assert not ways.offered(session, artifact, first), "nothing is built yet"
    built(cloud)
    with cloud.context.read() as session:
        to_holder = ways.offered(session, artifact, first)
        to_new = ways.offered(session, artifact, "")
        to_stranger = ways.offered(session, artifact, "ab" * 32)
    costs = {row.sha256: row.cost_bytes for row in rows_to(cloud, second).values()}
    assert to_holder[0].base == first
    assert [costs[way.sha256] for way in to_holder] == sorted(costs[w.sha256] for w in to_holder)
    assert all(costs[way.sha256] <= ways.WORTH * artifact.size_bytes for way in to_holder)
    assert all(not way.base and way.kind == "delta" for way in to_new)
    assert to_stranger[0].kind == "chunks", "no delta was built for what it holds"


def test_a_lost_blob_does_not_hold_up_the_other_pairs(cloud: Cloud):
    one, two = two_releases(cloud)
    first, second = one["onnx-cpu"], two["litert-cpu"]
    cloud.context.blobs.path(first).unlink()
    built(cloud)
    assert ("delta", "") in rows_to(cloud, second)
    assert not rows_to(cloud, first)


def test_a_search_finds_what_moved():
    rng = np.random.default_rng(1)
    old = rng.integers(0, 256, 300_000, np.uint8).tobytes()
    new = old[200_000:] + b"between" + old[:200_000]
    delta = build.between(old, new, old_spans={}, new_spans={}, search=ways.search)
    assert len(delta) < 1_000
