"""Pictures in, figures out: where a network sees the classes that are asked for, by several methods and layers."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from fastcam import drawing, methods as all_methods, ops, panels
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.methods.scores import Outputs, check_names, probabilities, recognise
from fastcam.models import ModelConfig
from fastcam.panels import Cell
from fastcam.pictures import DecodeError, Geometry, Preprocess, decode, find_pictures, quiet_pillow

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
    "saliency": "saliency",
    "guided-backprop": "guided backprop",
    "guided-gradcam": "Guided Grad-CAM",
}


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        pictures: how many pictures came in.
        files: the files written, in order.
        errors: id and reason of each picture that could not be explained.
        ignored: files that were passed over, as for `fastcam.pictures.find_pictures`.
    """

    pictures: int
    files: tuple[Path, ...]
    errors: tuple[tuple[str, str], ...]
    ignored: Mapping[str, int] = {}


def explain(
    model: nn.Module,
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    config: ModelConfig | None = None,
    methods: str | Sequence[str] = "gradcam",
    layers: Sequence[str] | None = None,
    fuse: Literal["mean", "max"] | None = None,
    targets: Sequence[int] | None = None,
    top_k: int = 1,
    smooth: Sequence[str] = (),
    grid: bool = True,
    panel: bool = False,
    num_results: int = 0,
    boxes: Sequence[str] | None = None,
    threshold: float | None = None,
    component_threshold: float = 0.6,
    blend: tuple[float, float] | None = None,
    relu: bool | None = None,
    mode: str = "bilinear",
    backend: str = "fused",
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Draw where a network sees classes in pictures.

    Beside each class stands its probability: the softmax of the network's logits, the sigmoid of a single one, or what
    the network gives if these are probabilities. Three kinds of files, for each picture as asked for:
    NAME_grid.png: one row for each class; the picture, then its map over it for each method and layer, or the
    gradients of methods such as guided backprop. The map alone comes before it where there is one method at one layer.
    NAME_panel.png: one row for each class, method and layer that gives a map; picture, map, and map over picture with
    boxes.
    imgN.png, camN.png, ResultN.png: picture, map and map over picture of the N-th picture, with the first class,
    method and layer.

    Args:
        model: network from [N, 3, size, size] to logits [N, C]. It runs on the device and in the dtype of its
            parameters, in evaluation mode, and stays as it was.
        source: picture files and folders; see `fastcam.pictures.find_pictures`.
        out: folder for the figures.
        config: preprocessing, class names and threshold that the model was made with; by default 224 pixels, squashed,
            ImageNet's mean and std; of timm's networks size, mean and std that their `pretrained_cfg` has.
        methods: one or several names, keys of `fastcam.methods.METHODS` or `ATTRIBUTIONS`.
        layers: dotted names of target layers, whose maps are drawn beside each other; by default the model's last
            stage.
        fuse: make one map of all layers instead, by their "mean" or "max".
        targets: class indices to explain.
        top_k: without targets, this many classes of each picture, those of the highest scores.
        smooth: any of "aug" (the average over six views of the picture) and "eigen" (the first principal component);
            for maps.
        grid: write NAME_grid.png.
        panel: write NAME_panel.png.
        num_results: write imgN, camN and ResultN for this many of the first pictures.
        boxes: what is drawn into maps over pictures: "largest", the box of the largest component above `threshold`
            of the map's range, in red; "all", those of every component above `component_threshold` of the maximum, in
            magenta. By default "largest" in panels and results, and none in grids.
        threshold: in [0, 1); by default that of `config`, else 0.2.
        component_threshold: in [0, 1).
        blend: weights of colour-coded map and picture; by default 0.7 and 0.5 in figures, 0.3 and 0.5 in results.
        relu: clip the map at zero before it is upsampled; by default as the method has it.
        mode: upsampling, "bilinear" or "bicubic".
        backend: "fused", or "reference" for plain PyTorch.
        overwrite: replace existing files; by default that is an error.
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
    threshold = (
        threshold if threshold is not None else 0.2 if config is None or config.threshold is None else config.threshold
    )
    for name, number in (("threshold", threshold), ("component_threshold", component_threshold)):
        if not 0 <= number < 1:
            raise ValueError(f"`{name}` must be at least 0 and less than 1, got {number!r}")
    for name, values, known in (("smooth", smooth, ("aug", "eigen")), ("boxes", boxes or (), ("largest", "all"))):
        if wrong := [value for value in values if value not in known]:
            raise ValueError(f"`{name}` may have {' and '.join(known)}, got {wrong[0]!r}")
    if not (grid or panel or num_results):
        raise ValueError("there is nothing to draw: ask for `grid`, `panel` or `num_results`")
    names = [methods] if isinstance(methods, str) else list(methods)
    options = {"relu": relu, "mode": mode, "backend": backend}
    views = list(_views(model, names, layers, fuse, options))
    if (panel or num_results or smooth) and not any(view.is_map for view in views):
        what = "panel" if panel else "num_results" if num_results else "smooth"
        raise ValueError(f"`{what}` needs a method that gives maps, such as gradcam; got {', '.join(names)}")

    sources = [source] if isinstance(source, str | os.PathLike) else source
    ignored: Counter[str] = Counter()
    listed = list(find_pictures(sources, ignored))
    jobs = list(zip(listed, _file_names([id for id, _ in listed]), strict=True))
    plan = [
        [Path(out, f"{name}_grid.png")] * grid
        + [Path(out, f"{name}_panel.png")] * panel
        + [*panels.result_paths(out, number)] * (number <= num_results)
        for number, (_, name) in enumerate(jobs, 1)
    ]
    if not overwrite and (existing := next((path for paths in plan for path in paths if path.exists()), None)):
        raise FileExistsError(f"{existing} exists already: choose another folder, or `overwrite` it")

    network = _Network(model, views, Preprocess.of(config, model), config, targets, top_k, smooth)
    draw = _Drawing(threshold, component_threshold, boxes, blend, bool(layers))
    errors: list[tuple[str, str]] = []
    files: list[Path] = []
    with quiet_pillow(), quiet_methods(), tqdm(jobs, unit="picture", disable=None if progress else True) as bar:
        for number, ((id, path), name) in enumerate(bar, 1):
            try:
                explained = network.explain(decode(path))
            except DecodeError as error:
                errors.append((id, str(error)))
                continue
            if grid:
                files.append(panels.save(draw.grid(explained, id), Path(out, f"{name}_grid.png")))
            if panel:
                files.append(panels.save(draw.panel(explained, id), Path(out, f"{name}_panel.png")))
            if number <= num_results:
                files.extend(draw.results(explained, out, number))
    tell(network.cautions())
    return Summary(len(jobs), tuple(files), tuple(errors), ignored)


class _View(NamedTuple):
    """One method at one layer, or at several that are fused."""

    title: str
    layers: tuple[str, ...]
    call: Any
    is_map: bool


def _views(
    model: nn.Module, names: Sequence[str], layers: Sequence[str] | None, fuse: str | None, options: dict[str, Any]
) -> Iterator[_View]:
    groups: list[list[str] | None] = [None]
    if layers:
        groups = [list(layers)] if fuse else [[layer] for layer in layers]
    for name in dict.fromkeys(names):
        title, is_map = _TITLES.get(name, name), name in all_methods.METHODS
        if name in all_methods.ATTRIBUTIONS and name != "guided-gradcam":
            yield _View(title, (), all_methods.create(name, model), False)
            continue
        for group in groups:
            if is_map:
                call = all_methods.create(name, model, target_layers=group, fuse=fuse or "mean", **options)
                yield _View(title, tuple(call.layers), call, True)
            else:
                call = all_methods.create(name, model, target_layers=group)
                yield _View(title, tuple(group or ()), call, False)


def _file_names(ids: Sequence[str]) -> list[str]:
    """Names for files: ids without suffix and odd characters, each once."""
    names, taken = [], Counter()
    for id in ids:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", os.path.splitext(id)[0])[-80:]
        taken[name] += 1
        while taken[name] > 1:
            name = f"{name}-{taken[name]}"
            taken[name] += 1
        names.append(name)
    return names


class _Explained(NamedTuple):
    """One picture, and what the network says about it."""

    picture: np.ndarray  # uint8 [h, w, 3]
    geometry: Geometry
    classes: list[str]  # name and probability of each
    found: list[tuple[_View, str, np.ndarray]]  # view, title of its layers, [k, H, W] or [k, 3, H, W] over the frame


class _Network:
    """Runs all views on one picture after the other."""

    def __init__(
        self,
        model: nn.Module,
        views: Sequence[_View],
        preprocess: Preprocess,
        config: ModelConfig | None,
        targets: Sequence[int] | None,
        top_k: int,
        smooth: Sequence[str],
    ) -> None:
        self.model, self.views, self.preprocess, self.top_k = model, views, preprocess, top_k
        self.class_names = config.class_names if config else ()
        self.targets = None if targets is None else torch.tensor([list(targets)])
        self.smooth = {f"{kind}_smooth": True for kind in smooth}
        self.like = next(model.parameters(), torch.empty(0))
        self.outputs: Outputs | None = None
        self.maps, self.constant = Counter(), Counter()  # all of a view, and those that show nothing

    def cautions(self) -> Iterator[str]:
        """What is to be said of views whose maps mislead, or mostly show nothing."""
        for view in self.views:
            key, grids = (view.title, view.layers), view.call.grids if view.is_map else {}
            if self.maps[key]:
                yield from view.call.cautions
            if said := constant(self.constant[key], self.maps[key], grids):
                yield f"{view.title}: {said}"

    def explain(self, image: Image.Image) -> _Explained:
        frame, geometry = self.preprocess.frame(image)
        images = self.preprocess.normalize(torch.from_numpy(frame)[None].to(self.like.device)).to(self.like.dtype)
        classes, logits, found = self.targets, None, []
        for view in self.views:
            chosen = {"top_k": self.top_k} if classes is None else {"targets": classes}
            result = view.call(images, **chosen, **(self.smooth if view.is_map else {}))[0]
            cams = [view.call] if view.is_map else getattr(view.call, "cams", [])
            sizes = {layer: "×".join(map(str, grid)) for cam in cams for layer, grid in cam.grids.items()}
            classes, logits = view.call.targets, view.call.outputs
            if not logits.isfinite().all():
                raise DecodeError("model", "its logits are not finite")
            layers = "\n".join(f"{layer} {sizes.get(layer, '')}".strip() for layer in view.layers)
            values = result.float().cpu().numpy()
            if not view.is_map and values.ndim == 3:  # saliency: a few high values would leave the rest black
                top = np.quantile(values, 0.99, axis=(1, 2), keepdims=True)
                values = np.clip(values / np.where(top > 0, top, 1), 0, 1)
            self.maps[view.title, view.layers] += len(values)
            self.constant[view.title, view.layers] += sum(not plane.max() > plane.min() for plane in values)
            found.append((view, layers, values))
        check_names(self.class_names, logits.shape[1])
        if self.outputs is None:
            self.outputs = recognise(self.model, images)
        chances = probabilities(logits.float(), self.outputs)[0]
        texts = [f"{self._name(c)}\n{chances[c]:.1%}" for c in classes[0].tolist()]
        small = image.convert("RGB")
        small.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
        return _Explained(np.array(small), geometry, texts, found)

    def _name(self, class_id: int) -> str:
        return f"{class_id} {self.class_names[class_id]}" if self.class_names else f"class {class_id}"


class _Drawing:
    """Makes figures of what was explained."""

    def __init__(
        self,
        threshold: float,
        component_threshold: float,
        boxes: Sequence[str] | None,
        blend: tuple[float, float] | None,
        named: bool,
    ) -> None:
        self.threshold, self.component_threshold, self.kinds, self.blend = threshold, component_threshold, boxes, blend
        self.named = named  # whether grids name layers

    def grid(self, explained: _Explained, title: str) -> Any:
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
        return panels.grid(rows, explained.classes, title)

    def panel(self, explained: _Explained, title: str) -> Any:
        kinds = ("largest",) if self.kinds is None else self.kinds
        rows, labels = [], []
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
        return panels.grid(rows, labels, title)

    def results(self, explained: _Explained, out: str | os.PathLike[str], number: int) -> tuple[Path, ...]:
        result = next(result for view, _, result in explained.found if view.is_map)[0]
        boxes = self._boxes(explained, result)
        kinds = ("largest",) if self.kinds is None else self.kinds
        wanted = np.concatenate([np.zeros((0, 4)), *(boxes[kind] for kind in kinds)])
        map_weight, image_weight = self.blend or (0.3, 0.5)
        return panels.save_results(
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
        largest = ops.boxes(torch.from_numpy(map)[None], map.shape, self.threshold, relu=False).numpy()
        height, width = explained.picture.shape[:2]
        scale = np.array([width, height] * 2) / np.array(explained.geometry.original * 2)
        every = drawing.component_boxes(map, self.component_threshold)
        return {kind: explained.geometry.to_original(b) * scale for kind, b in (("largest", largest), ("all", every))}
