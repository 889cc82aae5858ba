"""Which units make a class: by the weights of its row of the linear layer, and what the units respond to."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fastcam import drawing
from fastcam._files import file_names, replacing
from fastcam._options import accepts
from fastcam.data import Collection, Pictures, matching
from fastcam.discovery.figures import segmented
from fastcam.discovery.network import Failed, Network, Ready, no_pictures
from fastcam.discovery.settings import UnitsSettings
from fastcam.methods.activation import obstacle
from fastcam.methods.forward import Forward
from fastcam.methods.running import evaluation_mode
from fastcam.models import ModelConfig
from fastcam.models.outputs import caller
from fastcam.pictures import Geometry, Pixels, as_rgb, quiet_pillow
from fastcam.report.page import embed, write

_SIDE = 256  # longer side of a picture in a figure, in pixels
_GRAPHS = 8  # pictures at a time whose gradients are taken
_TITLES = {"weight": "by weight", "contribution": "by weight × mean activation"}

Ranking = Literal["weight", "contribution"]


class Example(NamedTuple):
    """A picture that a unit responds to.

    Attributes:
        id: of the picture.
        activation: the unit's highest activation in it.
        picture: uint8 [h, w, 3], its longer side at most 256 pixels.
        region: bool [h, w], where the unit responds.
    """

    id: str
    activation: float
    picture: np.ndarray
    region: np.ndarray


class Unit(NamedTuple):
    """A unit of a class.

    Attributes:
        class_id: index of the class.
        class_name: its name.
        by: what it is ranked by, "weight" or "contribution".
        rank: from 1.
        unit: its channel in the layer.
        weight: W[class, unit] of the linear layer.
        activation: its mean pooled activation in the class's pictures.
        contribution: weight × activation, its mean share of the class's logit.
        receptive_field: side in pixels of the network's input.
        examples: pictures of the highest activation, highest first; none of a unit that is never active.
    """

    class_id: int
    class_name: str
    by: Ranking
    rank: int
    unit: int
    weight: float
    activation: float
    contribution: float
    receptive_field: int
    examples: tuple[Example, ...]


class ClassUnits(NamedTuple):
    """What a run of `class_units` found.

    Attributes:
        pictures: how many pictures there were.
        units: class by class, ranking by ranking, first unit first.
        files: the files written, in order.
        errors: id and reason of each picture that could not be used.
    """

    pictures: int
    units: tuple[Unit, ...]
    files: tuple[Path, ...]
    errors: tuple[tuple[str, str], ...]


@accepts(UnitsSettings)
def class_units(
    model: nn.Module,
    data: Collection,
    targets: int | Sequence[int],
    *,
    out: str | os.PathLike[str] | None = None,
    settings: UnitsSettings,
    config: ModelConfig | None = None,
    progress: bool = True,
) -> ClassUnits:
    """Find the units that a class rests on, and show what they respond to.

    A logit is the sum over units of weight × pooled activation, so that the units of the largest weights make the class
    where they are active, and those of the largest contribution make it in fact. Each is shown by the pictures, of the
    whole data set, in which its activation is highest, bright where its region is: where the activations, each spread
    over its receptive field, are above `level` of their maximum. The receptive field is the square around a position
    that holds half of the squared gradients of the unit's highest activations in the pixels, averaged over these
    pictures: what a unit rests on is much smaller than what its layers could see.

    Sources: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 5 and figure 12
    (units ranked by the class's weights, their most confident pictures segmented by the receptive field); Zhou et al.,
    Object Detectors Emerge in Deep Scene CNNs, ICLR 2015, section 3.2 (receptive fields as they are, by what a small
    occluder changes), and its code (half of the maximum, fields of their actual size, the rest at a fifth of its
    brightness). Gradients in the place of occluders, which take thousands of passes, are those of Luo et al.,
    Understanding the Effective Receptive Field, NIPS 2016.

    With `out`, these files are written for each class: CLASS_weight.png and CLASS_contribution.png, a row of pictures
    for each unit; CLASS.html, the same as a page that needs nothing else; CLASS.csv, all units with their figures.

    Args:
        model: network from [N, 3, size, size] to logits [N, C], with a global pooling and one linear layer. It runs on
            the device and in the dtype of its parameters, in evaluation mode, and stays as it was.
        data: pictures, see `fastcam.data.load`. Their labels say which are of the class; where there are none, the
            network's highest classes do.
        targets: index of the class, or of several.
        out: folder for the files; None writes none.
        settings: which units are shown.
        config: preprocessing and class names that the model was made with; by default as for `fastcam.explain`.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The units of each class in their order, the files, and the pictures that could not be used.

    Raises:
        FileExistsError: a file to be written exists already and `overwrite` is not set.
        ValueError: a class has no picture, or is none of the network's; the network has no global pooling and linear
            layer after the units; gradients do not reach the pictures; an option is unknown or out of range.
        OSError: a file cannot be written.
        RuntimeError: the network failed.
    """
    classes = [targets] if isinstance(targets, int) else [*dict.fromkeys(targets)]
    if not classes or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in classes):
        raise ValueError(f"`targets` must be the index of a class, or of several, got {targets!r}")
    network = Network(model, config, settings.target_layer)
    paths = None if out is None else _paths(Path(out), classes, network, settings)
    if paths and not settings.overwrite and (existing := next((p for p in paths.values() if p.exists()), None)):
        raise FileExistsError(f"{existing} exists already: choose another folder, or `overwrite` it")
    count = config.num_classes if config else None
    data = matching.in_classes(data.labelled() if isinstance(data, Pictures) else data, network.class_names, count)
    labels = None if data.labels is None else [*data.labels]
    if labels is not None:
        for class_id in classes:
            if class_id not in labels:
                _check_class(class_id, count)
                present = [_called(one, network) for one in sorted({label for label in labels if label is not None})]
                raise no_pictures(class_id, _called(class_id, network), present)

    sums, errors = _Sums(classes, settings.pictures), list[tuple[str, str]]()
    with quiet_pillow(), tqdm(total=len(data), unit="picture", disable=None if progress else True) as bar:
        for batch in network.ready(data, range(len(data)), settings.batch_size, lambda place, geometry: None):
            bar.update(len(batch))
            errors += [(one.id, one.reason) for one in batch if isinstance(one, Failed)]
            if not (ready := [one for one in batch if isinstance(one, Ready)]):
                continue
            run = network.observe(ready, None)
            _check_class(max(classes), run.logits.shape[1])
            maps, weight = _maps(run, network)
            sound = (run.logits.isfinite().all(1) & maps.isfinite().flatten(1).all(1)).tolist()
            errors += [
                (data.ids[one.place], "model: its activations are not finite")
                for one, good in zip(ready, sound, strict=True)
                if not good
            ]
            if not (kept := [number for number, good in enumerate(sound) if good]):
                continue
            places, highest = [ready[number].place for number in kept], run.logits.argmax(1).tolist()
            known = [highest[number] for number in kept] if labels is None else [labels[place] for place in places]
            sums.add(places, known, maps[kept], run.pooled[kept], weight)
    for class_id in classes:
        if not sums.counts[class_id] and (labels is not None or not sums.best) and errors:
            raise ValueError(
                f"no picture of class {class_id}, {_called(class_id, network)!r}, could be used; the first of "
                f"{len(errors)} that could not be: {': '.join(errors[0])}"
            )
        if not sums.counts[class_id]:
            present = [_called(one, network) for one in sorted(sums.seen)]
            raise no_pictures(class_id, _called(class_id, network), present)
    units, every = _ranked(sums, classes, network, settings)
    units = _with_examples(units, sums, run, network, data, settings)
    files = [] if paths is None else [*_written(paths, units, every, classes, network, settings)]
    return ClassUnits(len(data), tuple(units), tuple(files), tuple(errors))


def _check_class(class_id: int, count: int | None) -> None:
    if count is not None and class_id >= count:
        raise ValueError(f"class {class_id} is out of range: the network has classes 0 … {count - 1}")


def _called(class_id: int, network: Network) -> str:
    return network.name(class_id) if class_id < len(network.class_names or range(class_id + 1)) else "?"


def _maps(run: Forward, network: Network) -> tuple[Tensor, Tensor]:
    """Activations of the units as they are pooled, [N, K, h, w], and the weights of all classes, [C, K]."""
    head, features = run.head(0), run.features[0]
    if head is None:
        raise ValueError(
            f"a class's units need a global pooling and one linear layer after the layer {network.layer!r}, but in "
            f"{type(run.model).__name__} {obstacle(features, run)}"
        )
    return features.relu() if head.relu else features, head.weight


class _Sums:
    """What is kept of all pictures: of each unit its highest activations, of each class the means."""

    def __init__(self, classes: Sequence[int], pictures: int) -> None:
        self.counts, self.means = dict.fromkeys(classes, 0), dict[int, Tensor]()
        self.seen: set[int] = set()
        self.weights: dict[int, Tensor] = {}
        self._pictures = pictures
        self.best: dict[str, Tensor] = {}  # of the highest peaks: these, pooled activations, places; [P, K]

    def add(
        self, places: Sequence[int], classes: Sequence[int | None], maps: Tensor, pooled: Tensor, weight: Tensor
    ) -> None:
        """Count some pictures: their places and classes, activations [N, K, h, w], pooled [N, K], weights [C, K]."""
        peaks, means = maps.flatten(2).amax(2).float().cpu(), pooled.float().cpu()
        rows = torch.tensor(places, dtype=torch.int64)[:, None].expand_as(peaks)
        new = {"values": peaks, "means": means, "places": rows}
        kept = {name: torch.cat([self.best[name], part]) if self.best else part for name, part in new.items()}
        # Where activations saturate, as those of ReLU6, many pictures have the same peak.
        order = kept["means"].argsort(dim=0, descending=True, stable=True)
        order = order.gather(0, kept["values"].gather(0, order).argsort(dim=0, descending=True, stable=True))
        self.best = {name: part.gather(0, order[: self._pictures]) for name, part in kept.items()}
        self.seen |= {one for one in classes if one is not None}
        for class_id in self.counts:
            members = [number for number, one in enumerate(classes) if one == class_id]
            self.weights[class_id] = weight[class_id].double().cpu()
            self.counts[class_id] += len(members)
            total = pooled[members].double().sum(0).cpu()
            self.means[class_id] = self.means[class_id] + total if class_id in self.means else total


def _ranked(
    sums: _Sums, classes: Sequence[int], network: Network, settings: UnitsSettings
) -> tuple[list[Unit], list[Unit]]:
    """The first units of each class and ranking; and all of each class, by the first ranking."""
    first: list[Unit] = []
    every: list[Unit] = []
    for class_id in classes:
        weights, means = sums.weights[class_id], sums.means[class_id] / sums.counts[class_id]
        values: dict[Ranking, Tensor] = {"weight": weights, "contribution": weights * means}
        for by in settings.by:
            order = values[by].argsort(dim=0, descending=True, stable=True).tolist()
            rows = [
                Unit(
                    class_id,
                    network.name(class_id),
                    by,
                    rank,
                    unit,
                    float(weights[unit]),
                    float(means[unit]),
                    float(values["contribution"][unit]),
                    settings.receptive_field or 0,
                    (),
                )
                for rank, unit in enumerate(order, 1)
            ]
            first += rows[: settings.top]
            every += rows if by == settings.by[0] else []
    return first, every


class _Seen(NamedTuple):
    """A picture that a unit responds to: its place, small, with the unit's activations [h, w]."""

    place: int
    geometry: Geometry
    picture: np.ndarray
    map: np.ndarray


def _with_examples(
    units: Sequence[Unit], sums: _Sums, run: Forward, network: Network, data: Collection, settings: UnitsSettings
) -> list[Unit]:
    """Look again at the pictures of each unit, for its regions in them and its receptive field.

    `run` is any, of which the layout of the layer's output is taken.
    """
    pairs = [
        (unit, place)
        for unit in dict.fromkeys(one.unit for one in units)
        for value, place in zip(
            sums.best["values"][:, unit].tolist(), sums.best["places"][:, unit].tolist(), strict=True
        )
        if value > 0
    ]
    size, found = network.preprocess.size, dict[int, list[_Seen]]()
    energies: dict[int, np.ndarray] = {}
    following = iter([unit for unit, _ in pairs])
    places = [place for _, place in pairs]
    with quiet_pillow():
        for batch in network.ready(data, places, min(settings.batch_size, _GRAPHS), lambda place, geometry: None):
            both = [(unit, one) for one, unit in zip(batch, following, strict=False) if isinstance(one, Ready)]
            if not both:  # they were read before
                continue
            chosen, ready = [unit for unit, _ in both], [one for _, one in both]
            maps, gradients = _activations(
                network.images(ready), chosen, run, network, settings.receptive_field is None
            )
            for number, (unit, one) in enumerate(zip(chosen, ready, strict=True)):
                seen = _Seen(one.place, one.geometry, _small(one.image), maps[number])
                found.setdefault(unit, []).append(seen)
                if gradients is not None:
                    around = _around((gradients[number] ** 2).sum(0), _below_cap(maps[number]), maps[number].shape)
                    energies[unit] = energies[unit] + around if unit in energies else around
    shown = []
    for each in units:
        side, examples = settings.receptive_field, list[Example]()
        if side is None and each.unit in found:
            cell = -(-size // min(found[each.unit][0].map.shape))
            side = min(size, max(cell, _side(energies[each.unit])))
        for place, geometry, picture, map in found.get(each.unit, []):
            frame = _region(map, settings.level, side or size, size).astype(np.float32)
            region = geometry.spread(frame, (picture.shape[1], picture.shape[0])) > 0.5
            examples.append(Example(data.ids[place], float(map.max()), picture, region))
        shown.append(each._replace(receptive_field=side or 0, examples=tuple(examples)))
    return shown


def _activations(
    images: Tensor, units: Sequence[int], run: Forward, network: Network, graph: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Activations of one unit in each picture, [N, h, w], and with a graph gradients, [N, 3, H, W], of a high one.

    ValueError if no gradient reaches the pictures.
    """
    outputs: list[Tensor] = []
    gradients: Tensor | None = None
    with torch.inference_mode(False), torch.set_grad_enabled(graph), evaluation_mode(network.model):
        images = images.clone().requires_grad_(graph)
        handle = network.module.register_forward_hook(lambda module, args, output: outputs.append(output.clone()))
        try:
            caller(network.model)(images.clone())  # a network may work on its input in place
        finally:
            handle.remove()
        features = outputs[-1] if run.reshape[0] is None else run.reshape[0](outputs[-1])
        chosen = features[torch.arange(len(units)), list(units)].relu()
        maps = chosen.detach().float().cpu().numpy()
        if graph:
            rows, columns = zip(*map(_below_cap, maps), strict=True)
            peaks = chosen[torch.arange(len(units)), list(rows), list(columns)].sum()
            gradients = torch.autograd.grad(peaks, images, allow_unused=True)[0] if peaks.requires_grad else None
    if graph and gradients is None:
        raise ValueError(
            f"no gradient of {network.layer!r} reaches the pictures, so that receptive fields cannot be measured: give "
            "`receptive_field`, in pixels"
        )
    return maps, None if gradients is None else gradients.double().cpu().numpy()


def _below_cap(map: np.ndarray) -> tuple[int, int]:
    """Row and column of a map's highest activation, or of the highest below it where several are equally high.

    Those are likely saturated, as of ReLU6, and have no gradient.
    """
    highest = map.max()
    below = map < highest
    if (map == highest).sum() > 1 and (map[below] > 0).any():
        map = np.where(below, map, -np.inf)
    row, column = np.unravel_index(map.argmax(), map.shape)
    return int(row), int(column)


def _around(squares: np.ndarray, place: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Squared gradients [H, W], with a position of a grid of `shape` moved into the middle: [2·H + 1, 2·W + 1]."""
    height, width = squares.shape
    y, x = (int((at + 0.5) * side / count) for at, side, count in zip(place, (height, width), shape, strict=True))
    moved = np.zeros((2 * height + 1, 2 * width + 1))
    moved[height - y : 2 * height - y, width - x : 2 * width - x] = squares / (squares.sum() or 1)
    return moved


def _small(image: Pixels) -> np.ndarray:
    picture = as_rgb(image).copy()
    picture.thumbnail((_SIDE, _SIDE))
    return np.asarray(picture)


def _region(map: np.ndarray, level: float, side: int, size: int) -> np.ndarray:
    """Where a map [h, w] of activations, each spread over its receptive field, is above `level` of its maximum.

    Bool [size, size]. The field is a Gaussian, as effective receptive fields are, of half its height at `side` / 2, so
    that at half of the maximum a single position has a disc of this diameter.
    """
    fields = []
    for count in map.shape:
        centres = (np.arange(count) + 0.5) * size / count
        distance = (np.arange(size) + 0.5 - centres[:, None]) / (side / 2)
        fields.append(0.5 ** (distance**2))
    spread = fields[0].T @ np.maximum(map, 0) @ fields[1]
    return spread > level * spread.max()


def _side(energy: np.ndarray) -> int:
    """Side of the smallest square around the middle that holds half of what `_around` gave."""
    middle, whole = len(energy) // 2, energy.sum()
    for half in range(middle):
        part = energy[middle - half : middle + half + 1, middle - half : middle + half + 1]
        if part.sum() >= whole / 2:
            return 2 * half + 1
    return middle


def _paths(out: Path, classes: Sequence[int], network: Network, settings: UnitsSettings) -> dict[tuple[int, str], Path]:
    """Files by class and kind."""
    kinds = {by: f"_{by}.png" for by in settings.by} | {"page": ".html", "table": ".csv"}
    names = file_names(_called(class_id, network) for class_id in classes)
    return {
        (class_id, kind): out / f"{name}{ending}"
        for class_id, name in zip(classes, names, strict=True)
        for kind, ending in kinds.items()
    }


def _written(
    paths: dict[tuple[int, str], Path],
    units: Sequence[Unit],
    every: Sequence[Unit],
    classes: Sequence[int],
    network: Network,
    settings: UnitsSettings,
) -> Iterator[Path]:
    """Write the figures, the page and the table of each class."""
    for class_id in classes:
        groups = [(by, [one for one in units if (one.class_id, one.by) == (class_id, by)]) for by in settings.by]
        name = f"class {class_id}: {network.class_names[class_id]}" if network.class_names else f"class {class_id}"
        for by, rows in groups:
            never = drawing.Cell(np.full((_SIDE, _SIDE, 3), 255, np.uint8), "never active in these pictures")
            cells = [
                [
                    drawing.Cell(segmented(one.picture, one.region), f"activation {one.activation:.3g}")
                    for one in row.examples
                ]
                or [never]
                for row in rows
            ]
            labels = [f"unit {row.unit}\nweight {row.weight:.3g}\n{row.contribution:.3g} of the logit" for row in rows]
            yield drawing.save(
                drawing.grid(cells, labels, f"{name}, units {_TITLES[by]}", side=1.9), paths[class_id, by]
            )
        yield write(
            paths[class_id, "page"],
            "units.html",
            styles=["base.css", "units.css"],
            title=f"Units of {name}",
            layer=network.layer,
            level=settings.level,
            groups=[(f"Units {_TITLES[by]}", [_card(row) for row in rows]) for by, rows in groups],
        )
        with replacing(paths[class_id, "table"]) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(["rank", "unit", "weight", "activation", "contribution"])
            for row in every:
                if row.class_id == class_id:
                    figures = (row.weight, row.activation, row.contribution)
                    lines.writerow([row.rank, row.unit, *(f"{value:.9g}" for value in figures)])
        yield paths[class_id, "table"]


def _card(unit: Unit) -> dict[str, object]:
    pictures = [
        (
            example.id,
            PurePosixPath(example.id).name,
            f"{example.activation:.3g}",
            embed(segmented(example.picture, example.region)),
        )
        for example in unit.examples
    ]
    return {"unit": unit, "pictures": pictures}
