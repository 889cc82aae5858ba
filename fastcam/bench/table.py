"""Speed as ratios measured in one run: what ``fastcam bench`` prints.

The contestants take turns, so that whatever else the machine does meets all of them, and medians are compared. Torch
and OpenCV have the same number of threads as fastcam. Inputs are random. fastcam always gets the whole batch; an
alternative that takes much longer is timed on a few images at a time, which go round.
"""

import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator
from itertools import cycle
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fastcam import ops
from fastcam._memory import keep_memory as keep_memory
from fastcam.bench import baselines

Name = TypeVar("Name", bound=Hashable)


class Contest(NamedTuple):
    """An operator and what one would write without it, with the number of images in one call of each."""

    work: str
    images: int
    ours: Callable[[], object]
    alternative: str
    their_images: int
    theirs: Callable[[], object]


def processor() -> str:
    """What the processor says of itself, and the instruction set in use."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {ops.build_info()['cpu_simd']}, {platform.system()}"


def versions() -> str:
    """The versions that a table of figures must name."""
    return f"torch {torch.__version__}, OpenCV {baselines.cv2.__version__ if baselines.cv2 else 'not installed'}"


def set_threads(threads: int) -> None:
    """Give torch, so fastcam too, and OpenCV the same number of threads.

    Args:
        threads: how many.
    """
    torch.set_num_threads(threads)
    if baselines.cv2:
        baselines.cv2.setNumThreads(threads)


def interleaved(
    contestants: dict[Name, Callable[[], object]],
    seconds: float = 2.0,
    rounds: int = 7,
    prepare: Callable[[Name], None] = lambda name: None,
) -> dict[Name, float]:
    """Time contestants that take turns.

    Args:
        contestants: name → call.
        seconds: how long to go on, about, in all.
        rounds: each takes so many turns at least.
        prepare: called with the name before each turn, outside the measured time.

    Returns:
        Name → median seconds of one call.
    """
    times: dict[Name, list[float]] = {name: [] for name in contestants}
    for name, call in contestants.items():
        prepare(name)
        call()  # warm-up
    began = time.perf_counter()
    while min(map(len, times.values())) < rounds or time.perf_counter() - began < seconds:
        for name, call in contestants.items():
            prepare(name)
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def activations(images: int, channels: int, side: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random features and weights of a class; the weights of an image sum to 0, so that maps have both signs.

    Args:
        images: N.
        channels: K.
        side: height and width.
        device: where to make them.

    Returns:
        [N, K, side, side] without negative values, and [N, K], float32.
    """
    features = torch.randn(images, channels, side, side, device=device).relu_()
    weights = torch.randn(images, channels, device=device)
    return features, weights - weights.mean(1, keepdim=True)


def noisy_maps(images: int, size: int = 224, side: int = 14, device: str = "cpu") -> Tensor:
    """Finished maps with many contours: normal noise, upsampled bicubically as WSOL evaluators do.

    Args:
        images: N.
        size: height and width.
        side: height and width of the noise.
        device: where to make them.

    Returns:
        [N, size, size] in [0, 1], float32.
    """
    return ops.heatmap(torch.randn(images, side, side, device=device), size, relu=False, mode="bicubic")


def truth_boxes(images: int, size: int = 224, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random boxes, one for each image.

    Args:
        images: N.
        size: height and width of the images.
        device: where to make them.

    Returns:
        float64 [N, 4] x0, y0, x1, y1 and the index of each box's image, int64 [N].
    """
    corners = torch.randint(0, size, (images, 2, 2), device=device).sort(1).values
    return corners.flatten(1).double(), torch.arange(images, device=device)


def random_masks(images: int, size: int = 224, device: str = "cpu") -> Tensor:
    """Masks of random pixels, from 10 % to 90 % of them set.

    Args:
        images: N.
        size: height and width.
        device: where to make them.

    Returns:
        bool [N, size, size].
    """
    density = torch.linspace(0.1, 0.9, images, device=device)[:, None, None]
    return torch.rand(images, size, size, device=device) < density


def truth_masks(images: int, size: int = 224, device: str = "cpu") -> Tensor:
    """Masks of an ellipse of random size in each image, and a stripe that is to be ignored.

    Args:
        images: N.
        size: height and width.
        device: where to make them.

    Returns:
        uint8 [N, size, size]: 1 inside, 0 outside, 255 on the stripe.
    """
    axis = torch.linspace(-1, 1, size, device=device)
    radii = torch.rand(images, 2, device=device) * 0.8 + 0.1
    rows, columns = (axis / radii[:, i : i + 1] for i in (0, 1))
    masks = (rows[:, :, None].square() + columns[:, None].square() < 1).to(torch.uint8)
    masks[:, size // 10 : size // 5].masked_fill_(masks[:, size // 10 : size // 5] == 0, 255)
    return masks


def contests(images: int = 64, slow_images: int = 4) -> Iterator[Contest]:
    """The rows of the table.

    Args:
        images: in one call.
        slow_images: in one call of an alternative that takes tens of milliseconds an image.

    Yields:
        One contest for each operator; without OpenCV, only those that do not need it.
    """
    features, weights = activations(images, 512, 7)
    coarse = ops.class_map(features, weights)
    yield Contest(
        "coarse 7×7 → heatmap 224×224",
        images,
        lambda: ops.heatmap(coarse, 224),
        "torch",
        images,
        lambda: baselines.heatmap(coarse, 224),
    )
    scores, objects = noisy_maps(images), truth_masks(images)
    yield Contest(
        "224×224 maps and masks → histograms of scores",
        images,
        lambda: ops.score_histograms(scores, objects),
        "NumPy",
        images,
        lambda: baselines.score_histograms(scores, objects),
    )
    if baselines.cv2 is None:
        return
    yield Contest(
        "coarse 7×7 → box in 224×224",
        images,
        lambda: ops.boxes(coarse, 224),
        "torch, OpenCV's components",
        images,
        lambda: baselines.boxes(coarse, 224),
    )
    yield Contest(
        "activations 512×7×7 → box in 224×224",
        images,
        lambda: ops.class_boxes(features, weights, 224),
        "torch, OpenCV's components",
        images,
        lambda: baselines.class_boxes(features, weights, 224),
    )
    maps, (truths, owners) = scores, truth_boxes(images)
    parts = cycle([(maps[i : i + slow_images], truths[i : i + slow_images]) for i in range(0, images, slow_images)])
    some = min(slow_images, images)
    yield Contest(
        "224×224 maps → box at every level",
        images,
        lambda: ops.box_curves(maps),
        "OpenCV at 1000 thresholds",
        some,
        lambda: baselines.box_curves(next(parts)[0]),
    )
    yield Contest(
        "224×224 maps → best IoU of all contours at every level",
        images,
        lambda: ops.iou_curves(maps, truths, owners, contours="all"),
        "OpenCV at 1000 thresholds",
        some,
        lambda: baselines.iou_curves(*next(parts), owners[:some], contours="all"),
    )
    masks = random_masks(images)
    yield Contest(
        "components of 224×224 masks, 10–90 % set",
        images,
        lambda: ops.components(masks),
        "OpenCV",
        images,
        lambda: baselines.components(masks),
    )


def table(threads: int | None = None, images: int = 64, seconds: float = 2.0, quick: bool = False) -> Iterator[str]:
    """Measure and tell, line by line, in Markdown.

    Args:
        threads: rows show 1 thread and so many; None is as many as torch takes by itself.
        images: in one call.
        seconds: measure each row about so long.
        quick: as few rounds as give a median; the figures are rough.

    Yields:
        The lines of a table, the machine first.

    Raises:
        ValueError: no thread or no image.
    """
    before = torch.get_num_threads()
    threads = before if threads is None else threads
    if threads < 1 or images < 1:
        raise ValueError(f"there must be a thread and an image, got {threads} and {images}")
    counts = [1] if threads == 1 else [1, threads]
    lanes = f"{' and '.join(map(str, counts))} thread{'s' if threads > 1 else ''}"
    yield f"{processor()}, {versions()}; {lanes}, {images} images a call"
    yield ""
    yield "Microseconds an image, medians of interleaved calls; freed memory stays with the process."
    yield ""
    header = ["work", "alternative"]
    for count in counts:
        header += [f"fastcam, {count} thread{'s' if count > 1 else ''}", "alternative", "ratio"]
    header += [f"{threads} threads against 1"] * (threads > 1)
    yield _row(header)
    yield _row(["---", "---"] + ["---:"] * (len(header) - 2))
    try:
        torch.manual_seed(0)
        for contest in contests(images, slow_images=1 if quick else 4):
            medians = _measure(contest, counts, 0 if quick else seconds, rounds=3 if quick else 7)
            cells = [contest.work, contest.alternative]
            for count in counts:
                ours, theirs = medians[count, "ours"] / contest.images, medians[count, "theirs"] / contest.their_images
                cells += [f"{1e6 * ours:.1f}", f"{1e6 * theirs:.0f}", f"{theirs / ours:.1f}"]
            if threads > 1:
                cells.append(f"{medians[1, 'ours'] / medians[threads, 'ours']:.2f}")
            yield _row(cells)
    finally:
        set_threads(before)
    if baselines.cv2 is None:
        yield ""
        yield "OpenCV is not installed: rows that compare with it are left out."


def _measure(contest: Contest, counts: list[int], seconds: float, rounds: int) -> dict[tuple[int, str], float]:
    """Median seconds of a call for (threads, whose)."""

    def prepare(name: tuple[int, str]) -> None:
        if torch.get_num_threads() != name[0]:
            set_threads(name[0])
            contest.ours()  # starts the threads

    contestants = {(count, "ours"): contest.ours for count in counts}
    contestants |= {(count, "theirs"): contest.theirs for count in counts}
    order = sorted(contestants)  # a thread count at a time
    return interleaved({name: contestants[name] for name in order}, seconds, rounds, prepare)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
