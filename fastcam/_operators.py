"""Where the operators come from: two compiled libraries, and the plain twins in the place of what is missing.

`_C` has the list of operators and the kernels for CPUs, and loads beside every torch; `_C_cuda` has the kernels for
GPUs, and needs a torch with CUDA of its major version. Without the first, `fastcam.reference` gives every result,
slowly, and a RuntimeWarning says so, once. Without the second, it gives those of tensors on a GPU; the warning comes
where there is a GPU, or where the library fails to load.
"""

import multiprocessing
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastcam import reference

_HOW = "see Start in the README, and `fastcam info`"
# Measured on one core, 8 maps of 224×224: 37 (heatmap, box_curves), 48 (iou_curves), 99 (boxes), 134 (components).
# With a ResNet18 at 64 pixels a whole `localize` took 1.1 times as long, `evaluate` 2.9 times.
_SLOWER = "operators are 40 to 130 times slower, a whole evaluation about 3 times"
_INSTALL = "run `pip install .` in its checkout, or `python setup.py build_ext --inplace` to use the checkout itself"


class Loaded(NamedTuple):
    """What was found.

    Attributes:
        library: operators and kernels for CPUs; None where the twins stand in.
        cuda: kernels for GPUs; None where they are not loaded.
        why: what is to be said of a library that is missing, by "library" and "cuda".
    """

    library: Path | None
    cuda: Path | None
    why: dict[str, str]


def load(folder: Path = Path(__file__).parent) -> Loaded:
    """Load the libraries in a folder, or put twins in their place: once in each process.

    Raises:
        ImportError: the variable FASTCAM_SIMD has an unknown value.
    """
    if (simd := os.environ.get("FASTCAM_SIMD", "")) not in ("", "portable", "avx2", "avx512"):
        raise ImportError(f"FASTCAM_SIMD must be portable, avx2 or avx512, or not be set, got {simd!r}")
    library, cuda, why = folder / "_C.abi3.so", folder / "_C_cuda.abi3.so", dict[str, str]()
    if os.environ.get("FASTCAM_EXTENSION") == "0":
        why["library"] = "FASTCAM_EXTENSION=0"
    elif not library.exists():
        why["library"] = f"none was built: {_INSTALL}"
    else:
        why |= _failure("library", library)
    if "library" in why:
        _stand_in("CPU", define=True)
        _stand_in("CUDA")
        _warn(f"fastcam runs without its kernels ({why['library']}): all is correct, but {_SLOWER}; {_HOW}")
        return Loaded(None, None, why)
    why |= _cuda_is_not_for(torch.version.cuda) if cuda.exists() else {"cuda": "they were not built"}
    failed = {} if "cuda" in why else _failure("cuda", cuda)
    why |= failed
    if "cuda" in why:
        _stand_in("CUDA")
        if failed or torch.cuda.device_count():  # without a GPU nobody misses what was not meant for this torch
            _warn(f"fastcam runs without its kernels for GPUs ({why['cuda']}); {_HOW}")
    return Loaded(library, None if "cuda" in why else cuda, why)


def _failure(name: str, path: Path) -> dict[str, str]:
    """Load a library; what is to be said if that fails, by its name."""
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        cause = f"{path} does not load with torch {torch.__version__} (CUDA {torch.version.cuda})"
        return {name: f"{cause}: {error.__cause__ or error}; it needs torch 2.11 or newer"}
    return {}


def _cuda_is_not_for(version: str | None) -> dict[str, str]:
    """Why the kernels for GPUs are not for a torch with this version of CUDA, if they are not."""
    built = re.match(r"cuda: nvcc (\d+)", torch.ops.fastcam.build())
    if built is None:  # what lies there is an earlier build's
        return {"cuda": "they were not built"}
    if version is None:
        return {"cuda": "this torch is a CPU build"}
    if built[1] != version.partition(".")[0]:
        return {"cuda": f"they were built with CUDA {built[1]}, this torch has {version}"}
    return {}


def _warn(message: str) -> None:
    if multiprocessing.parent_process() is None:  # which has said it
        warnings.warn(message, RuntimeWarning, stacklevel=5)


def _stand_in(device: str, define: bool = False) -> None:
    """Register the twins as the operators' implementation on a kind of device; with `define`, the operators, too."""
    kind = "DEF" if define else "IMPL"
    library = torch.library.Library("fastcam", kind)
    for twin in _TWINS:
        name = twin.__name__.removeprefix("_")
        if define:
            library.define(name + torch.library.infer_schema(twin, mutates_args=()))
        library.impl(name, twin, device)
    _KEPT.append(library)


_KEPT: list[torch.library.Library] = []  # one that is collected takes its operators with it


# ---- the operators of csrc/ops.cpp by their twins: flat arguments to those of fastcam.reference ---------------------


def _class_map(features: Tensor, weights: Tensor) -> Tensor:
    return reference.class_map(features, weights)


def _gradient_map(features: Tensor, gradients: Tensor, weighting: str, eps: float) -> Tensor:
    return reference.gradient_map(features, gradients, weighting, eps)


def _heatmap(coarse: Tensor, height: int, width: int, relu: bool, normalize: str, mode: str, as_bytes: bool) -> Tensor:
    given = None if normalize == "none" else normalize
    return reference.heatmap(coarse, (height, width), relu, given, mode, torch.uint8 if as_bytes else None)


def _boxes(
    coarse: Tensor,
    levels: Tensor | None,
    thresholds: Sequence[float],
    height: int,
    width: int,
    relu: bool,
    mode: str,
    connectivity: int,
    largest: str,
) -> Tensor:
    threshold = thresholds if levels is None else levels
    return reference.boxes(coarse, (height, width), threshold, relu, mode, connectivity, largest).flatten(0, 1)


def _class_boxes(
    features: Tensor,
    weights: Tensor,
    levels: Tensor | None,
    thresholds: Sequence[float],
    height: int,
    width: int,
    relu: bool,
    mode: str,
    connectivity: int,
    largest: str,
) -> Tensor:
    coarse = reference.class_map(features, weights).flatten(0, 1)
    return _boxes(coarse, levels, thresholds, height, width, relu, mode, connectivity, largest)


def _class_boxes_and_maps(
    features: Tensor,
    weights: Tensor,
    levels: Tensor | None,
    thresholds: Sequence[float],
    height: int,
    width: int,
    relu: bool,
    mode: str,
    connectivity: int,
    largest: str,
    as_bytes: bool,
) -> tuple[Tensor, Tensor]:
    coarse = reference.class_map(features, weights).flatten(0, 1)
    boxes = _boxes(coarse, levels, thresholds, height, width, relu, mode, connectivity, largest)
    return boxes, _heatmap(coarse, height, width, relu, "after", mode, as_bytes)


def _components(
    masks: Tensor, connectivity: int, max_components: int | None, min_area: int, fill_holes: bool, labels: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    boxes, areas, image, *painted = reference.components(
        masks, connectivity, max_components, min_area, fill_holes, labels
    )
    nothing = masks.new_empty((0, *masks.shape[1:]), dtype=torch.int32)
    return boxes, areas, image.clone(), painted[0] if painted else nothing


def _box_curves(maps: Tensor) -> Tensor:
    return reference.box_curves(_saturated(maps))


def _saturated(maps: Tensor) -> Tensor:
    """Finished maps in [0, 1], whatever they hold: NaN counts as 0."""
    return maps.nan_to_num(0.0).clamp(0, 1)


def _iou_curves(maps: Tensor, boxes: Tensor, starts: Tensor, all_contours: bool) -> Tensor:
    owners = torch.repeat_interleave(torch.arange(len(maps), device=maps.device), starts.diff())
    true = boxes[int(starts[0]) : int(starts[-1])]  # a GPU's may be of no map
    return reference.iou_curves(_saturated(maps), true, owners, "all" if all_contours else "largest")


def _score_histograms(maps: Tensor, masks: Tensor, bins: int) -> Tensor:
    return reference.score_histograms(maps, masks, bins)


def _refine(maps: Tensor, images: Tensor, dilations: Sequence[int], iterations: int) -> Tensor:
    if not maps.numel():
        return torch.empty_like(maps)
    return reference.refine(maps.contiguous(), images.contiguous(), dilations, iterations)  # sums of one order


def _resize(
    picture: Tensor, height: int, width: int, top: int, left: int, rows: int, columns: int, columns_first: bool
) -> Tensor:
    first = "columns" if columns_first else "rows"
    return reference.resize(picture, (height, width), (top, left, rows, columns), first)


_TWINS = (
    _class_map,
    _gradient_map,
    _heatmap,
    _boxes,
    _class_boxes,
    _class_boxes_and_maps,
    _components,
    _box_curves,
    _iou_curves,
    _score_histograms,
    _refine,
    _resize,
)
