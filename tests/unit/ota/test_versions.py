"""Which reported runtimes an artifact fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.proving import versions
from ota.proving.campaign import CAMPAIGN, CampaignState, CampaignTrigger
from ota.proving.versions import Built

NUMBERS = st.lists(st.integers(0, 99), min_size=1, max_size=4)


def dotted(numbers: list[int]) -> str:
    return ".".join(map(str, numbers))


@pytest.mark.parametrize(
    ("runtime", "built", "found", "specifier", "fits"),
    [
        ("tensorrt", "10.3.0", "10.3.0", "", True),
        ("tensorrt", "10.3.0", "10.3", "", True),
        ("tensorrt", "10.3.0", "10.7.0", ">=10.3,<12", False),
        ("tensorrt-rtx", "1.3", "1.4", ">=1.3", False),
        ("onnxruntime", "1.20.1", "1.23.2+cu12", ">=1.20,<2", True),
        ("onnxruntime", "1.20.1", "1.19.0", ">=1.20,<2", False),
        ("onnxruntime", "1.20.1", "2.0.0", "", False),
        ("onnxruntime", "1.20.1", "2.0.0", ">=1.20,<2", False),
        ("litert", "2.1", "2.3.0", "", True),
        ("litert", "", "2.3.0", "", True),
        ("litert", "2.1", "unknown", ">=2", True),
        ("litert", "2.1", "2.3", "about 2", True),
    ],
)
def test_engines_fit_one_version_and_files_a_range(
    runtime: str, built: str, found: str, specifier: str, *, fits: bool
) -> None:
    assert versions.fits(Built(runtime, (built,)), found, specifier) is fits


def test_what_it_was_proven_with_counts_beside_what_it_was_built_with() -> None:
    built = Built("tensorrt", ("10.3", "10.7"))
    assert versions.fits(built, "10.7", "")
    assert not versions.fits(built, "10.8", "")


@given(NUMBERS, NUMBERS)
def test_clauses_agree_with_one_another(a: list[int], b: list[int]) -> None:
    one, two = dotted(a), dotted(b)
    assert versions.within(one, f">={two}") != versions.within(one, f"<{two}")
    assert versions.within(one, f"<={two}") != versions.within(one, f">{two}")
    equal = versions.within(one, f"=={two}")
    assert equal == versions.within(one, f">={two},<={two}")
    assert versions.fits(Built("tensorrt", (two,)), one, "") == equal


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_no_text_raises(built: str, found: str, specifier: str) -> None:
    for runtime in ("tensorrt", "litert"):
        assert versions.fits(Built(runtime, (built,)), found, specifier) in {True, False}


@given(st.lists(st.sampled_from(CampaignTrigger), max_size=12))
def test_a_decision_is_final_and_taken_on_what_was_raised(events: list[CampaignTrigger]) -> None:
    state = CAMPAIGN.initial
    for event in events:
        if not CAMPAIGN.allows(state, event):
            continue
        before, state = state, CAMPAIGN.next(state, event)
        if state in {CampaignState.STARTED, CampaignState.DISMISSED}:
            assert before is CampaignState.OPEN
        assert before not in CAMPAIGN.terminal
    assert CAMPAIGN.terminal == {CampaignState.STARTED, CampaignState.DISMISSED}
