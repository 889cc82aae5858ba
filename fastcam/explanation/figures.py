"""Pictures in, figures out: where a network sees the classes that are asked for, by several methods and layers."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from fastcam import drawing, ops
from fastcam._files import file_names
from fastcam._options import accepts
from fastcam.drawing import Cell
from fastcam.explanation.settings import ExplainSettings
from fastcam.methods import ATTRIBUTIONS, Attribution, GuidedGradCAM, Method, create, observe
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.methods.core import MethodOptions
from fastcam.methods.scales import ScaledRun
from fastcam.methods.scores import Outputs, check_names, probabilities, recognise
from fastcam.models import ModelConfig
from fastcam.models.outputs import as_asked
from fastcam.pictures import (
    DecodeError,
    Geometry,
    Pixels,
    Preprocess,
    Reading,
    Samples,
    as_rgb,
    find_pictures,
    quiet_pillow,
    read,
)
from fastcam.pictures.stream import batched, stream

_LONGER_SIDE = 512  # of a picture in a figure, in pixels

_TITLES = {
    "cam": "CAM",
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGrad-CAM",
    "eigencam": "Eigen-CAM",
    "eigengradcam": "Eigen-Grad-CAM",
    "scorecam": "Score-CAM",
    "ablationcam": "Ablation-CAM",
    "finercam": "Finer-CAM",
    "shapleycam": "ShapleyCAM",
    "refinecam": "RefineCAM",
    "rollout": "attention rollout",
    "legrad": "LeGrad",
    "attention-relevance": "attention relevance",
    "fullgrad": "FullGrad",
    "saliency": "saliency",
    "guided-backprop": "guided backprop",
    "guided-gradcam": "Guided Grad-CAM",
}


class Explanation(NamedTuple):
    """What a run of `explain` did.

    Attributes:
        pictures: how many pictures there were.
        files: the files written, in order.
        errors: id and reason of each picture that could not be explained.
        ignored: files that were passed over, as for `fastcam.pictures.find_pictures`.
    """

    pictures: int
    files: tuple[Path, ...]
    errors: tuple[tuple[str, str], ...]
    ignored: Mapping[str, int] = {}


@accepts(ExplainSettings)
def explain(
    model: nn.Module,
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    settings: ExplainSettings,
    config: ModelConfig | None = None,
    progress: bool = True,
) -> Explanation:
    """Draw where a network sees classes in pictures.

    Beside each class stands its probability: the softmax of the network's logits, the sigmoid of a single one or, with
    `scores`, of each, or what the network gives if these are probabilities. Four kinds of files, for each picture as
    asked for:
    NAME_grid.png: one row for each class; the picture, then its map over it for each method and layer, or the
    gradients of methods such as guided backprop. The map alone comes before it where there is one method at one layer.
    NAME_panel.png: one row for each class, method and layer that gives a map; picture, map, and map over picture with
    boxes.
    NAME_stl10.png: the same rows; the map as the layer has it, not resized, then at the size of the network's input,
    and over the picture as the network sees it.
    imgN.png, camN.png, ResultN.png: picture, map and map over picture of the N-th picture, with the first class,
    method and layer.

    Args:
        model: network from [N, 3, size, size] to logits [N, C], or to what `output` finds scores in. It runs
            on the device and in the dtype of its parameters, in evaluation mode, and stays as it was.
        source: picture files and folders; see `fastcam.pictures.find_pictures`.
        out: folder for the figures.
        settings: what is drawn.
        config: preprocessing, class names and threshold that the model was made with; by default 224 pixels, squashed,
            ImageNet's mean and std; of timm's networks size, mean and std that their `pretrained_cfg` has.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The number of pictures, the files, and the pictures that could not be read.

    Warns:
        fastcam.methods.MapWarning: most maps of a method are constant, or its target layer has a single position; or
            the network ends in a softmax, whose gradients mislead.

    Raises:
        FileNotFoundError: a path does not exist.
        FileExistsError: a file to be written exists already and `overwrite` is not set.
        ValueError: a folder without pictures, an option that is unknown or out of range, or a method that cannot serve
            the network.
        OSError: a figure cannot be written.
        RuntimeError: the network failed.
    """
    if settings.threshold is None and config is not None and config.threshold is not None:
        settings = dataclasses.replace(settings, threshold=config.threshold)
    model = as_asked(model, settings.output, config)
    views = list(_views(model, settings))
    of_maps = [
        name for name in ("panel", "num_results", "stl10_blog", "smooth", "scales", "flip") if getattr(settings, name)
    ]
    if of_maps and not any(view.is_map for view in views):
        names = ", ".join(settings.methods)
        raise ValueError(f"`{of_maps[0]}` needs a method that gives maps, such as gradcam; got {names}")

    sources = [source] if isinstance(source, str | os.PathLike) else source
    ignored: Counter[str] = Counter()
    listed = list(find_pictures(sources, ignored))
    files_of = file_names(os.path.splitext(id)[0] for id, _ in listed)
    sheets = [
        _Sheet(id, path, number, *(Path(out, f"{name}_{kind}.png") for kind in ("grid", "panel", "stl10")))
        for number, ((id, path), name) in enumerate(zip(listed, files_of, strict=True), 1)
    ]
    if not settings.overwrite and (existing := next(filter(Path.exists, _files(sheets, out, settings)), None)):
        raise FileExistsError(f"{existing} exists already: choose another folder, or `overwrite` it")

    network = _Explainer(model, views, Preprocess.of(config, model), config, settings)
    draw = _Figures(settings)
    errors: list[tuple[str, str]] = []
    files: list[Path] = []
    with (
        quiet_pillow(),
        quiet_methods(),
        tqdm(total=len(sheets), unit="picture", disable=None if progress else True) as bar,
    ):
        read_one = partial(_read, reading=network.preprocess.reading)
        for ((sheet, pixels),) in stream(batched(sheets, 1), read_one, prefetch=1):
            bar.update()
            try:
                if isinstance(pixels, DecodeError):
                    raise pixels
                explained = network.explain(pixels)
            except DecodeError as error:
                errors.append((sheet.id, str(error)))
                continue
            if settings.grid:
                files.append(drawing.save(draw.grid(explained, sheet.id), sheet.grid))
            if settings.panel:
                files.append(drawing.save(draw.panel(explained, sheet.id), sheet.panel))
            if settings.stl10_blog:
                files.append(drawing.save(draw.stl10(explained, sheet.id), sheet.stl10))
            if sheet.number <= settings.num_results:
                files.extend(draw.results(explained, out, sheet.number))
    tell(network.cautions(), stacklevel=3)  # of whoever called: between is what takes the options one by one
    return Explanation(len(sheets), tuple(files), tuple(errors), ignored)


class _Sheet(NamedTuple):
    """One picture, its number from 1, and the files of its figures."""

    id: str
    path: Path
    number: int
    grid: Path
    panel: Path
    stl10: Path


def _files(sheets: Sequence[_Sheet], out: str | os.PathLike[str], settings: ExplainSettings) -> Iterator[Path]:
    """All files that will be written."""
    for sheet in sheets:
        yield from [sheet.grid] * settings.grid + [sheet.panel] * settings.panel + [sheet.stl10] * settings.stl10_blog
        if sheet.number <= settings.num_results:
            yield from drawing.result_paths(out, sheet.number)


def _read(sheet: _Sheet, reading: Reading) -> tuple[_Sheet, Pixels | DecodeError]:
    try:
        return sheet, read(sheet.path, reading=reading).pixels
    except DecodeError as error:
        return sheet, error


class _View(NamedTuple):
    """One method at one layer, or at several that are fused."""

    title: str
    layers: tuple[str, ...]
    method: Method | Attribution

    @property
    def is_map(self) -> bool:
        """Whether it gives maps, and not gradients in the picture."""
        return isinstance(self.method, Method)

    @property
    def maps(self) -> Sequence[Method]:
        """The methods in it that have target layers."""
        if isinstance(self.method, Method):
            return [self.method]
        return self.method.cams if isinstance(self.method, GuidedGradCAM) else []


def _views(model: nn.Module, settings: ExplainSettings) -> Iterator[_View]:
    groups: list[list[str] | None] = [None]
    options: MethodOptions = {"relu": settings.relu, "mode": settings.mode, "backend": settings.backend}
    if settings.fuse:
        options["fuse"] = settings.fuse
    if settings.layers:
        groups = [list(settings.layers)] if settings.fuse else [[layer] for layer in settings.layers]
    for name in dict.fromkeys(settings.methods):
        title = _TITLES.get(name, name)
        if name in ATTRIBUTIONS and name != "guided-gradcam":
            yield _View(title, (), create(name, model))
            continue
        for group in [None] if name == "fullgrad" else groups:  # which has no target layers
            if name not in ATTRIBUTIONS:
                method = create(name, model, target_layers=group, **options)
                assert isinstance(method, Method)
                layers = list(method.layers)
                if len(layers) > 2 and not method.several:  # all blocks of a vision transformer
                    layers[1:-1] = ["…"]
                yield _View(title, tuple(layers), method)
            else:
                yield _View(title, tuple(group or ()), create(name, model, target_layers=group))


class _Explained(NamedTuple):
    """One picture, and what the network says about it."""

    picture: np.ndarray  # uint8 [h, w, 3]
    frame: np.ndarray  # uint8 [H, W, 3], what the network sees, as people see it
    geometry: Geometry
    classes: list[str]  # name and probability of each
    found: list[tuple[_View, str, np.ndarray]]  # view, title of its layers, [k, H, W] or [k, 3, H, W] over the frame
    coarse: list[np.ndarray | None]  # of each, [k, h, w] in [0, 1] as the layer has it, where that is wanted


class _Explainer:
    """Runs all views on one picture after the other."""

    def __init__(
        self,
        model: nn.Module,
        views: Sequence[_View],
        preprocess: Preprocess,
        config: ModelConfig | None,
        settings: ExplainSettings,
    ) -> None:
        self.model, self.views, self.preprocess, self.top_k = model, views, preprocess, settings.top_k
        self.class_names = config.class_names if config else ()
        self.scores = settings.scores or (config.scores if config else None)
        self.targets = None if settings.targets is None else torch.tensor([settings.targets])
        self.aug, self.eigen = "aug" in settings.smooth, "eigen" in settings.smooth
        self.scales, self.flip = settings.scales, settings.flip
        self.stl10 = settings.stl10_blog
        self.like = next(model.parameters(), torch.empty(0))
        self.outputs: Outputs | None = None
        self.maps: Counter[tuple[str, tuple[str, ...]]] = Counter()  # all of a view
        self.constant: Counter[tuple[str, tuple[str, ...]]] = Counter()  # those that show nothing

    def cautions(self) -> Iterator[str]:
        """Warnings of views whose maps mislead, or mostly show nothing."""
        for view in self.views:
            key, grids = (view.title, view.layers), view.method.grids if isinstance(view.method, Method) else {}
            if self.maps[key]:
                yield from view.method.cautions
            if caution := constant(self.constant[key], self.maps[key], grids):
                yield f"{view.title}: {caution}"

    def explain(self, image: Pixels) -> _Explained:
        frame, geometry = self.preprocess.frame(image)
        images = self.preprocess.normalize(torch.from_numpy(frame)[None].to(self.like.device)).to(self.like.dtype)
        logits, classes, found = torch.empty(0), self.targets, []
        every: list[np.ndarray | None] = []
        for view in self.views:
            result, coarse, logits, classes = self._run(view, images, classes)
            every.append(coarse)
            if not logits.isfinite().all():
                raise DecodeError("model", "its logits are not finite")
            sizes = {layer: "×".join(map(str, grid)) for cam in view.maps for layer, grid in cam.grids.items()}
            layers = "\n".join(f"{layer} {sizes.get(layer, '')}".strip() for layer in view.layers)
            values = result.float().cpu().numpy()
            if not view.is_map and values.ndim == 4 and values.shape[1] != 3:  # shown as such pictures are
                values = values[:, :3] if values.shape[1] > 3 else np.repeat(values[:, :1], 3, 1)
            if not view.is_map and values.ndim == 3:  # saliency: a few high values would leave the rest black
                top = np.quantile(values, 0.99, axis=(1, 2), keepdims=True)
                values = np.clip(values / np.where(top > 0, top, 1), 0, 1)
            self.maps[view.title, view.layers] += len(values)
            self.constant[view.title, view.layers] += sum(not plane.max() > plane.min() for plane in values)
            found.append((view, layers, values))
        check_names(self.class_names, logits.shape[1])
        if self.outputs is None:
            self.outputs = recognise(self.model, images, self.scores)
        chances = probabilities(logits.float(), self.outputs)[0]
        texts = [f"{self._name(c)}\n{chances[c]:.1%}" for c in ([] if classes is None else classes[0].tolist())]
        small = as_rgb(image).copy()
        small.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
        frame = frame if self.preprocess.reading.plain else np.array(Samples(frame).shown)
        return _Explained(np.array(small), frame, geometry, texts, found, every)

    def _run(
        self, view: _View, images: Tensor, classes: Tensor | None
    ) -> tuple[Tensor, np.ndarray | None, Tensor, Tensor]:
        """[k, …] of one picture, its coarse maps, logits [1, C], and classes [1, k]: as asked for, else the highest."""
        top_k, coarse = self.top_k if classes is None else None, None
        if isinstance(view.method, Method):
            views: dict[str, Any] = {"scales": self.scales, "flip": self.flip, "aug_smooth": self.aug}
            run = observe([view.method], images, classes, top_k, eigen_smooth=self.eigen, **views)
            result = view.method(run, eigen_smooth=self.eigen)
            if self.stl10:
                maps = view.method.coarse(run, eigen_smooth=self.eigen)[0]
                if not isinstance(run, ScaledRun):  # whose maps are finished
                    maps = ops.heatmap(maps, maps.shape[1:], view.method.relu)
                coarse = maps.float().cpu().numpy()
        else:
            result = view.method(images, classes, top_k)
        if view.method.outputs is None or view.method.targets is None:
            raise RuntimeError(f"{view.title} has no logits and classes after its call")
        return result[0], coarse, view.method.outputs, view.method.targets

    def _name(self, class_id: int) -> str:
        return f"{class_id} {self.class_names[class_id]}" if self.class_names else f"class {class_id}"


class _Figures:
    """Makes figures of what was explained."""

    def __init__(self, settings: ExplainSettings) -> None:
        self.threshold = 0.2 if settings.threshold is None else settings.threshold
        self.component_threshold, self.kinds, self.blend = settings.component_threshold, settings.boxes, settings.blend
        self.named = bool(settings.layers)  # whether grids name layers

    def grid(self, explained: _Explained, title: str) -> Figure:
        maps = sum(view.is_map for view, _, _ in explained.found)
        rows = []
        for rank in range(len(explained.classes)):
            row = [Cell(explained.picture, "original")]
            for view, layers, result in explained.found:
                values = self._over(explained, result[rank])
                name = f"{view.title}\n{layers}" if layers and self.named else view.title
                if view.is_map and maps == 1:
                    row.append(Cell(drawing.colorize(values), "heatmap"))
                row.append(Cell(self._picture(explained, view, values, result[rank], self.kinds or ()), name))
            rows.append(row if rank == 0 else [cell._replace(title="") for cell in row])
        return drawing.grid(rows, explained.classes, title)

    def panel(self, explained: _Explained, title: str) -> Figure:
        kinds = ("largest",) if self.kinds is None else self.kinds
        rows: list[list[Cell]] = []
        labels = []
        for rank, text in enumerate(explained.classes):
            for view, layers, result in explained.found:
                if view.is_map:
                    values = self._over(explained, result[rank])
                    pictures = (
                        explained.picture,
                        drawing.colorize(values),
                        self._picture(explained, view, values, result[rank], kinds),
                    )
                    titles = ("", "", "") if rows else ("original", "map", self._caption(kinds))
                    rows.append([Cell(*pair) for pair in zip(pictures, titles, strict=True)])
                    labels.append("\n".join([text.replace("\n", " "), view.title, layers]))
        return drawing.grid(rows, labels, title)

    def stl10(self, explained: _Explained, title: str) -> Figure:
        map_weight, image_weight = self.blend or (0.3, 0.5)
        rows: list[list[Cell]] = []
        labels = []
        above: tuple[str, ...] = ()
        for rank, text in enumerate(explained.classes):
            for (view, layers, result), coarse in zip(explained.found, explained.coarse, strict=True):
                if coarse is not None:
                    sizes = ["×".join(map(str, values.shape[1:])) for values in (coarse, result)]
                    pictures = (
                        drawing.colorize(coarse[rank]),
                        drawing.colorize(result[rank]),
                        drawing.overlay(explained.frame, result[rank], image_weight, map_weight),
                    )
                    words = f"map {sizes[0]}", f"map {sizes[1]}", f"{map_weight:g}·map + {image_weight:g}·picture"
                    titles = ("", "", "") if words == above else words
                    rows.append([Cell(*pair) for pair in zip(pictures, titles, strict=True)])
                    above = words
                    labels.append("\n".join([text.replace("\n", " "), view.title, layers]))
        return drawing.grid(rows, labels, title)

    def results(self, explained: _Explained, out: str | os.PathLike[str], number: int) -> tuple[Path, ...]:
        result = next(result for view, _, result in explained.found if view.is_map)[0]
        boxes = self._boxes(explained, result)
        kinds = ("largest",) if self.kinds is None else self.kinds
        wanted = np.concatenate([np.zeros((0, 4)), *(boxes[kind] for kind in kinds)])
        map_weight, image_weight = self.blend or (0.3, 0.5)
        return drawing.save_results(
            out, number, explained.picture, self._over(explained, result), wanted, image_weight, map_weight
        )

    def _caption(self, kinds: Sequence[str]) -> str:
        words = {
            "largest": f"red: the largest at {self.threshold:g}",
            "all": f"magenta: all at {self.component_threshold:g}·max",
        }
        return "\n".join(["map over picture", *(words[kind] for kind in kinds)])

    def _over(self, explained: _Explained, values: np.ndarray) -> np.ndarray:
        """Lay values of the frame over the picture: a map in [0, 1], or an RGB picture of gradients."""
        height, width = explained.picture.shape[:2]

        def spread(plane: np.ndarray) -> np.ndarray:
            return explained.geometry.spread(np.ascontiguousarray(plane, np.float32), (width, height))

        if values.ndim == 2:
            return spread(values).clip(0, 1)
        # Zero beyond the frame is mid-grey.
        shown = drawing.deprocess(values) / np.float32(255) - np.float32(0.5)
        return (np.stack([spread(shown[..., c]) for c in range(3)], 2) + 0.5).clip(0, 1)

    def _picture(
        self, explained: _Explained, view: _View, values: np.ndarray, result: np.ndarray, kinds: Sequence[str]
    ) -> np.ndarray:
        if not view.is_map:
            return drawing.as_uint8(values if values.ndim == 3 else np.repeat(values[..., None], 3, 2))
        map_weight, image_weight = self.blend or (0.7, 0.5)
        picture = drawing.overlay(explained.picture, values, image_weight, map_weight)
        boxes = self._boxes(explained, result)
        for kind, color in (("all", drawing.COMPONENT), ("largest", drawing.PREDICTED)):
            if kind in kinds:
                picture = drawing.draw_boxes(picture, boxes[kind], color)
        return picture

    def _boxes(self, explained: _Explained, map: np.ndarray) -> dict[str, np.ndarray]:
        """Boxes in pixels of the drawn picture, found in the frame as everywhere else."""
        level = torch.full((1,), self.threshold)  # of the maximum, which is 1
        largest = ops.boxes(torch.from_numpy(map)[None], map.shape, level, relu=False).numpy()
        height, width = explained.picture.shape[:2]
        scale = np.array([width, height] * 2) / np.array(explained.geometry.original * 2)
        every = drawing.component_boxes(map, self.component_threshold)
        return {kind: explained.geometry.to_original(b) * scale for kind, b in (("largest", largest), ("all", every))}
