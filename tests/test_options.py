"""Options declared once: checks, signature and documentation made of a dataclass; the command line in tests/cli."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from fastcam import _options
from fastcam._options import accepts, check, decisive, option


@dataclass(frozen=True)
class Settings:
    top_k: int = option(1, "boxes for so many classes", least=1)
    target_layers: tuple[str, ...] | None = option(None, "layers by dotted name", flags="--target-layer")
    threshold: float | None = option(None, "fraction of the map's range", least=0, below=1)
    mode: Literal["bilinear", "bicubic"] = option("bilinear", "upsampling of the map")
    mean: tuple[float, float, float] = option((0.1, 0.2, 0.3), "mean of RGB")
    last: bool = option(True, "memory format", flags="--last/--first", decides=False)
    relu: bool | None = option(None, "clip the map")
    maps: bool = option(False, "keep the `maps`")
    layer: Any = option(None, "a module", cli=False)

    def __post_init__(self) -> None:
        check(self)


@accepts(Settings)
def verb(model, *, out, settings: Settings, progress=True):
    """Do.

    Args:
        model: the network.
        settings:
        progress: a bar.
    """
    return settings


def test_a_function_takes_options_one_by_one_or_as_a_record():
    assert verb(0, out=1, top_k=3).top_k == 3
    assert verb(0, out=1, settings=Settings(top_k=4)).top_k == 4
    names = [*inspect.signature(verb).parameters]
    assert names == ["model", "out", *_options.options(Settings), "progress"]
    assert inspect.signature(verb).parameters["top_k"].default == 1
    text = inspect.getdoc(verb)
    assert "\n    threshold: fraction of the map's range.\n" in text
    assert "settings" not in text


def test_unknown_and_doubled_options_are_refused():
    with pytest.raises(TypeError, match=r"verb\(\) got an unexpected keyword argument 'treshold'; did you mean thresh"):
        verb(0, out=1, treshold=0.5)
    with pytest.raises(TypeError, match="`settings`, and `top_k` beside"):
        verb(0, out=1, settings=Settings(), top_k=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_k": 0}, "`top_k` must be a whole number of at least 1, got 0"),
        ({"top_k": True}, "`top_k` must be a whole number of at least 1, got True"),
        ({"top_k": 2.0}, "`top_k` must be a whole number"),
        ({"threshold": 1.0}, "`threshold` must be a finite number of at least 0 and below 1, got 1.0"),
        ({"threshold": float("nan")}, "`threshold` must be a finite number"),
        ({"mode": "area"}, "`mode` must be one of bilinear, bicubic, got 'area'"),
        ({"mean": (1.0,)}, "`mean` must be three numbers"),
        ({"relu": 1}, "`relu` must be true or false, got 1"),
        ({"target_layers": "layer4"}, "`target_layers` must be names, got 'layer4'"),
    ],
)
def test_kinds_and_ranges(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Settings(**wrong)


def test_numbers_of_numpy_become_pythons():
    settings = Settings(top_k=np.int64(2), threshold=np.float32(0.25), layer=object)
    assert (type(settings.top_k), type(settings.threshold)) == (int, float)


def test_what_decides():
    assert [*decisive(Settings())] == [name for name in _options.options(Settings) if name != "last"]
