"""How much of a title is said: rare words, in any case and script."""

from __future__ import annotations

import numpy as np
import pytest

from service.words import _of_title, overlap, words

TITLES = ["Peil red striped tee", "Peil red dotted tee", "Lus blue tee", ""]


def test_a_title_that_is_said_is_nearest_and_all_its_words_are_all_of_it() -> None:
    found = overlap("well the blue tee of lus is back", TITLES)
    assert found.argmax() == 2
    assert found[2] == pytest.approx(1), "what no title has takes nothing away"
    assert found[3] == 0


def test_what_many_titles_have_weighs_less() -> None:
    found = overlap("a striped tee", TITLES)
    assert found[0] > 2 * found[1] > 0, "all are tees, one is striped"


def test_words_are_one_in_any_case_and_form() -> None:
    assert words("\uff34\uff45\uff45 TEE straße") == {"tee", "strasse"}
    assert words("no_1 (re-sealable), 500ml!") == {"no", "1", "re", "sealable", "500ml"}


def test_scripts_without_spaces_are_read_by_the_character() -> None:
    assert words("红色T恤") == {"红", "色", "t", "恤"}
    titles = ["蓝色牛仔裤", "红色连衣裙"]
    assert overlap("这条红色的裙子", titles).argmax() == 1


def test_no_more_is_read_than_of_what_is_embedded() -> None:
    assert overlap("so " * 1_300 + "lus blue", TITLES).argmax() == 2
    assert not overlap("so " * 1_400 + "lus blue", TITLES).any()


def test_what_clips_say_is_not_kept() -> None:
    overlap("", TITLES)
    held = _of_title.cache_info().currsize
    overlap("said once and never again, the blue one", TITLES)
    assert _of_title.cache_info().currsize == held


@pytest.mark.parametrize("speech", ["", " ", "\N{BANANA}", "nothing that they have"])
def test_nothing_in_common_is_nothing(speech: str) -> None:
    assert not overlap(speech, TITLES).any()
    assert not overlap(speech, ["", ""]).any()
    assert np.array_equal(overlap(speech, []), np.zeros(0, np.float32))
