from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.media.frame_plan import Sample, UnplannableError, even_places, nearest, plan


def stream(*keys: int, length: int = 100) -> list[Sample]:
    """Frames in the order they are shown."""
    return [Sample(i, key=i in keys) for i in range(length)]


def test_key_frames_near_enough_are_all_that_is_decoded() -> None:
    found = plan(stream(*range(0, 100, 10)), even_places(0, 100, 10, 1), tolerance=5)
    assert found.feed == tuple(range(0, 100, 10))


def test_a_key_frame_serves_one_place_only() -> None:
    """It lies half way between two places."""
    found = plan(stream(0, 10), (5, 15), tolerance=5)
    assert found.feed == (0, 10)
    found = plan(stream(0, 10, 17), (5, 15), tolerance=5)
    assert found.feed == (0, 17)


def test_without_a_near_key_frame_the_first_that_is_near_is_decoded_from_the_one_before() -> None:
    found = plan(stream(0, 50), (30, 70), tolerance=6)
    assert found.feed == (*range(28), *range(50, 68))
    assert found.holds([27, 67])
    assert not found.holds([23, 67])


def test_first_near_is_what_comes_first_in_decoding_order() -> None:
    """Shown 0, 1, 2, 3, 4, 5, 6 and decoded 0, 4, 2, 1, 3, 6, 5: 4 is decoded before 3 and 2."""
    samples = [Sample(time, key=time == 0) for time in (0, 4, 2, 1, 3, 6, 5)]
    assert plan(samples, (3.5,), tolerance=3).feed == (0, 1)
    assert plan(samples, (2,), tolerance=0).feed == (0, 1, 2)


def test_no_tolerance_takes_the_nearest_frames_and_no_others() -> None:
    samples = stream(0, 10, 20, 30)
    found = plan(samples, (9.4, 20), tolerance=0)
    assert found.feed == (*range(10), 20)
    assert found.holds([8, 9, 20])
    assert not found.holds([8, 20])


def test_frames_shown_before_their_key_frame_are_left_out_with_what_they_need() -> None:
    """An open group: 12 and 11 are decoded after key frame 13 and shown before it."""
    samples = [Sample(10, key=True), Sample(13, key=True), Sample(12, key=False)]
    samples += [Sample(11, key=False), Sample(14, key=False)]
    assert plan(samples, (14,), tolerance=0).feed == (1, 4)
    assert plan(samples, (12,), tolerance=0).feed == (0, 1, 2)


def test_frames_before_an_edit_lists_beginning_are_decoded_for_others_but_never_chosen() -> None:
    samples = [Sample(-2, key=True, shown=False), Sample(-1, key=False, shown=False)]
    samples += [Sample(0, key=False), Sample(1, key=False)]
    assert plan(samples, (0,), tolerance=3).feed == (0, 1, 2)


def test_a_stream_that_starts_within_a_group_cannot_be_planned() -> None:
    with pytest.raises(UnplannableError):
        plan([Sample(0, key=False), Sample(1, key=False)], (0,), tolerance=0)
    with pytest.raises(UnplannableError):
        plan([], (0,), tolerance=0)


@given(
    gaps=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    keys=st.sets(st.integers(0, 59)),
    frames=st.integers(1, 12),
    tolerance=st.floats(0, 0.5),
)
def test_what_is_fed_can_be_decoded_and_keeps_the_promise(
    gaps: list[int], keys: set[int], frames: int, tolerance: float
) -> None:
    times = [sum(gaps[:i]) for i in range(len(gaps))]
    samples = [Sample(time, key=i in keys or i == 0) for i, time in enumerate(times)]
    places = even_places(0, sum(gaps), frames, min(gaps))
    found = plan(samples, places, tolerance * sum(gaps) / frames)
    assert samples[found.feed[0]].key
    assert all(samples[b].key or b == a + 1 for a, b in pairwise(found.feed))
    assert found.holds([times[i] for i in found.feed])
    if tolerance == 0:
        exact = [times[i] for i in nearest(times, places)]
        fed = [times[i] for i in found.feed]
        assert [fed[i] for i in nearest(fed, places)] == exact
