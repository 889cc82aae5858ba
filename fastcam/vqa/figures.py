"""Figures of answers: the picture, where it speaks for the answer, and what each word adds."""

import os
import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastcam import drawing
from fastcam.pictures import Pixels
from fastcam.vqa.inputs import picture
from fastcam.vqa.model import Answer

_LONGER_SIDE = 512  # of a picture in a figure, in pixels
_WORD, _PICTURE, _BIAS = "tab:blue", "tab:orange", "0.6"
_LETTERS = 24  # of a word, beside its bar


def figure(image: str | os.PathLike[str] | Pixels, answers: Answer | Sequence[Answer]) -> Figure:
    """Draw answers to a question about a picture, or to several: a row for each.

    The picture; the answer's map over it; and bars of what each word of the question, the picture and the bias add to
    the answer's logit. All rows have the same scale of bars.

    Args:
        image: the picture that was asked about: a file, a PIL picture, or RGB of uint8 [H, W, 3].
        answers: what `VQA.answer` or `VQA.best` gave for it.

    Returns:
        The figure: notebooks show it, `fastcam.drawing.save` writes it.

    Raises:
        FileNotFoundError: no such file.
        TypeError: no picture.
        ValueError: no answers, or a map of another size than the picture's; `DecodeError` for a damaged file.
    """
    answers = [answers] if isinstance(answers, Answer) else list(answers)
    if not answers:
        raise ValueError("`answers` must be one at least, got none")
    whole = picture(image)
    small = whole.copy()
    small.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    pixels = np.array(small)
    bars = [_bars(answer) for answer in answers]
    values = [value for rows in bars for _, value, _ in rows]
    low, high = min(0, *values), max(0, *values)
    margin = 0.22 * (high - low or 1)  # for the numbers
    height = max(2.4 * min(1, pixels.shape[0] / pixels.shape[1]), 0.19 * max(map(len, bars)) + 0.5)
    # A Figure of its own, not pyplot's: no global state, no window system, safe in any thread.
    shown = Figure(figsize=(9, len(answers) * (height + 0.35) + 0.5), dpi=110, layout="constrained")
    one = len({answer.question for answer in answers}) == 1
    if one:
        shown.suptitle(_line(answers[0].question, 100), fontsize=11, parse_math=False)
    axes = shown.subplots(len(answers), 3, squeeze=False, width_ratios=(1, 1, 1.3))
    for row, answer, parts in zip(axes, answers, bars, strict=True):
        if answer.map.shape != (whole.height, whole.width):
            size = f"{whole.height}x{whole.width}"
            raise ValueError(f"the map of {answer.text!r} has {answer.map.shape}, the picture {size}: of another one?")
        heat = cv2.resize(answer.map, pixels.shape[1::-1], interpolation=cv2.INTER_AREA).clip(0, 1)
        for place, drawn in zip(row, (pixels, drawing.overlay(pixels, heat)), strict=False):
            place.imshow(drawn, interpolation="antialiased")
            place.set_axis_off()
        title = f"{_line(answer.text, 40)} ({answer.probability:.1%})"
        row[1].set_title(title, fontsize=10, parse_math=False)
        if not one:
            asked = textwrap.fill(_line(answer.question, 2 * _LETTERS + 30), _LETTERS + 16)  # two lines at most
            row[2].set_title(asked, fontsize=9, parse_math=False)
        _draw(row[2], parts, low - margin * (low < 0), high + margin * (high > 0))
    axes[-1, 2].set_xlabel("added to the answer's logit", fontsize=9)
    return shown


def _bars(answer: Answer) -> list[tuple[str, float, str]]:
    """Label, length and colour of each bar, from the top; words that are not known have none."""
    words = [(_line(word, _LETTERS), value, _WORD) for word, value in answer.words.items()]
    unknown = [(f"{_line(word, _LETTERS)} (unknown)", 0.0, _WORD) for word in answer.unknown]
    return [*words, *unknown, ("[picture]", answer.picture, _PICTURE), ("[bias]", answer.bias, _BIAS)]


def _draw(place: Axes, bars: list[tuple[str, float, str]], low: float, high: float) -> None:
    labels, values, colors = zip(*bars, strict=True)
    drawn = place.barh(range(len(bars)), values, color=colors, height=0.7)
    shown = [f"{value:+.1f}" if abs(value) >= 0.05 else "0" for value in values]
    place.bar_label(drawn, shown, padding=2, fontsize=8)
    place.set_yticks(range(len(bars)), labels, fontsize=9, parse_math=False)
    place.set_ylim(len(bars) - 0.4, -0.6)  # the first word at the top
    place.set_xlim(low, high)
    place.axvline(0, color="0.3", linewidth=0.8)
    place.spines[["top", "right", "left"]].set_visible(False)
    place.tick_params(axis="y", length=0)
    place.tick_params(axis="x", labelsize=8)


def _line(text: str, letters: int) -> str:
    """A text in one line that is not too long; there are no glyphs for control characters."""
    return textwrap.shorten("".join(c if c.isprintable() else "\ufffd" for c in text), letters, placeholder=" …")
