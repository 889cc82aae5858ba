"""Checks of arguments: what they refuse, and what their errors name."""

import pytest

from fastcam import _check


@pytest.mark.parametrize("value", [2, -1, 2.0, 3.5, True, "3", None])
def test_what_is_no_whole_number_of_that_size_is_refused(value):
    _check.whole("count", 3, 3)
    with pytest.raises(ValueError, match=rf"^`count` must be a whole number of at least 3, got {value!r}$"):
        _check.whole("count", value, 3)


@pytest.mark.parametrize("value", ["medium", None, ["small"]])
def test_what_is_not_one_of_the_known_values_is_refused(value):
    _check.one_of("size", "large", {"small": 1, "large": 2})
    with pytest.raises(ValueError, match=r"^`size` must be one of small, large, got "):
        _check.one_of("size", value, {"small": 1, "large": 2})
    with pytest.raises(ValueError, match=r"^`size` must be one of 'small', None, got "):
        _check.one_of("size", "large", ("small", None), repr)


def test_similar_words_are_suggested_and_else_the_first_are_listed():
    known = [f"resnet{depth}" for depth in range(20)]
    assert _check.suggest("resnet3x", known).startswith("; did you mean resnet3, ")
    assert _check.suggest("resnet3x", known).count("resnet") == 5
    assert _check.suggest("vgg", known) == f"; known are {', '.join(known[:12])}, …"
    assert _check.suggest("vgg", known[:2]) == "; known are resnet0, resnet1"
