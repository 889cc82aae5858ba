"""Which objects make a scene: their overlap with the high-activation area of the scene's CAM."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from fastcam import drawing
from fastcam._files import file_names, replacing
from fastcam._options import accepts
from fastcam.data import Scenes, matching
from fastcam.discovery.figures import Example, Line, scene_figure
from fastcam.discovery.network import Failed, Network, Ready, no_pictures
from fastcam.discovery.settings import ObjectsSettings
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.models import ModelConfig
from fastcam.pictures import Geometry, as_rgb, quiet_pillow

_SIDE = 448  # longer side in pixels of what objects and maps are compared in


class SceneObject(NamedTuple):
    """How informative a class of objects is for a class of scenes.

    Attributes:
        scene: index of the scene's class.
        scene_name: its name.
        rank: of the object among all of the scene, by overlap, from 1.
        object: the object's name.
        pictures: of the scene that have the object.
        frequency: their share of the scene's pictures.
        overlap: mean share of the object that lies in the high-activation area, over these pictures; NaN if the network
            sees none of them whole enough to tell.
        covered: mean share of the high-activation area that the object takes.
    """

    scene: int
    scene_name: str
    rank: int
    object: str
    pictures: int
    frequency: float
    overlap: float
    covered: float


class InformativeObjects(NamedTuple):
    """What a run of `informative_objects` found.

    Attributes:
        pictures: how many pictures there were.
        scenes: how many pictures there were of each class of scenes, by its index.
        objects: scene by scene, most informative first.
        files: the files written, in order.
        errors: id and reason of each picture that could not be used.
    """

    pictures: int
    scenes: Mapping[int, int]
    objects: tuple[SceneObject, ...]
    files: tuple[Path, ...]
    errors: tuple[tuple[str, str], ...]


@accepts(ObjectsSettings)
def informative_objects(
    model: nn.Module,
    data: Scenes,
    *,
    out: str | os.PathLike[str] | None = None,
    settings: ObjectsSettings,
    config: ModelConfig | None = None,
    progress: bool = True,
) -> InformativeObjects:
    """Rank the objects of scenes by their overlap with the high-activation area of the scene's CAM.

    An object of every scene, such as a wall, is frequent and tells nothing; what a network looks at does. For each
    class of scenes the high-activation area of a picture is where the CAM of this class is above `level` of its range.
    An object's overlap is the share of its pixels that lies there, averaged over the class's pictures that have the
    object; all objects of a name in a picture count as one. The share of pictures that have it is its plain frequency.
    What a network that crops does not see does not count.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 4.2 and figure 9:
    the six objects of a scene that most frequently overlap with the high CAM activation regions, beside the six most
    frequent ones. The paper does not define the overlap.

    With `out`, these files are written: objects.csv, the table; and SCENE.png for each class of scenes: bars of the
    most frequent and of the most informative objects, and for each of the latter a picture with its outline, and
    the map over it.

    Args:
        model: network from [N, 3, size, size] to logits [N, C], with a global pooling and one linear layer, such as
            those of `fastcam fit` and of torchvision's ResNets. It runs on the device and in the dtype of its
            parameters, in evaluation mode, and stays as it was.
        data: scenes with objects, see `fastcam.data.load_scenes`. Classes of scenes meet the network's by their names,
            or else by their numbers.
        out: folder for the files; None writes none.
        settings: what is ranked.
        config: preprocessing and class names that the model was made with; by default as for `fastcam.explain`.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The objects of each class of scenes in their order, the files, and the pictures that could not be used.

    Warns:
        fastcam.methods.MapWarning: most maps are constant.

    Raises:
        FileExistsError: a file to be written exists already and `overwrite` is not set.
        TypeError: the data are no scenes.
        ValueError: the data set tells no classes of scenes, or none of the network's; a class that is asked for has no
            picture; no picture has an object; the network has no global pooling and linear layer; an option is unknown
            or out of range.
        OSError: a file cannot be written.
        RuntimeError: the network failed.
    """
    if not isinstance(data, Scenes):
        raise TypeError(f"`data` must be scenes, which `fastcam.data.load_scenes` gives, got {type(data).__name__}")
    network = Network(model, config, settings.target_layer)
    labels = None if settings.predicted else _labels(data, network, config)
    indices = [i for i in range(len(data)) if labels is None or _wanted(labels[i], settings.scenes)]
    if labels is not None:
        _check_present(settings.scenes, [labels[i] for i in indices], labels, network)
        if out is not None:
            _check_free(Path(out), [labels[i] for i in indices], network, settings.overwrite)
    tally = _Tally()
    errors: list[tuple[str, str]] = []
    maps = flat = 0
    bare = data.labelled()  # regions are drawn apart

    def also(index: int, geometry: Geometry) -> dict[int, np.ndarray]:
        return data.regions(index, _fit(geometry.original))

    with (
        quiet_pillow(),
        quiet_methods(),
        tqdm(total=len(indices), unit="picture", disable=None if progress else True) as bar,
    ):
        for batch in network.ready(bare, indices, settings.batch_size, also):
            bar.update(len(batch))
            errors += [(one.id, one.reason) for one in batch if isinstance(one, Failed)]
            ready = [one for one in batch if isinstance(one, Ready)]
            if not ready:
                continue
            run = network.observe(ready, None if labels is None else [labels[one.place] or 0 for one in ready])
            heat = network.cam(run).cpu().numpy()
            assert run.chosen.classes is not None
            maps += len(ready)
            finite = run.logits.isfinite().all(1).tolist()
            for one, scene, map, sound in zip(ready, run.chosen.classes[:, 0].tolist(), heat, finite, strict=True):
                if not _wanted(scene, settings.scenes):
                    continue
                if not (sound and map.max() > 0):
                    what = "map is constant: it has no high-activation area" if sound else "logits are not finite"
                    errors.append((data.ids[one.place], f"model: its {what}"))
                    flat += sound
                    continue
                size = _fit(one.geometry.original)
                high = one.geometry.spread(map, size) > settings.level
                seen = one.geometry.spread(np.ones_like(map), size) > 0.5
                tally.add(scene, one.place, one.known, high, seen)
    if labels is None:
        _check_present(settings.scenes, [*tally.scenes], [*tally.scenes], network)
    tell([*network.cam.cautions, constant(flat, maps, network.cam.grids)], stacklevel=3)
    if not tally.rows:
        hint = f"; the first of {len(errors)} that could not be used: {': '.join(errors[0])}" if errors else ""
        raise ValueError(f"no picture of the scenes has an object{hint}")
    objects = tally.ranked(data.object_names, network, settings.min_frequency)
    files: list[Path] = []
    if out is not None:
        _check_free(Path(out), [*tally.scenes], network, settings.overwrite)
        files = [*_written(Path(out), objects, tally, data, network, settings)]
    return InformativeObjects(len(indices), dict(tally.scenes), tuple(objects), tuple(files), tuple(errors))


def _labels(data: Scenes, network: Network, config: ModelConfig | None) -> list[int | None]:
    """The class of each picture's scene, by the network's numbers."""
    found = matching.in_classes(data.labelled(), network.class_names, config.num_classes if config else None).labels
    if found is None:
        raise ValueError(
            f"{data.root}: nothing tells the scenes of the pictures: put them into a folder for each class, name the "
            "scene of each (`scenes` of `fastcam.data.load_scenes`, --scenes), or take what the network says "
            "(`predicted`, --predicted)"
        )
    count = config.num_classes if config else None
    highest = max((label for label in found if label is not None), default=0)
    if count is not None and highest >= count:
        raise ValueError(
            f"the data set has a scene {highest}, but the network {count} classes, and their names do not meet: name "
            "the network's classes (--class-names), or the scenes as these"
        )
    return list(found)


def _wanted(scene: int | None, scenes: Sequence[int] | None) -> bool:
    return scene is not None and (scenes is None or scene in scenes)


def _check_present(
    asked: Sequence[int] | None, found: Sequence[int | None], every: Sequence[int | None], network: Network
) -> None:
    for scene in asked or ():
        if scene not in found:
            present = [network.name(one) for one in sorted({one for one in every if one is not None})]
            name = network.name(scene) if not network.class_names or scene < len(network.class_names) else "?"
            raise no_pictures(scene, name, present)


def _check_free(out: Path, scenes: Sequence[int | None], network: Network, overwrite: bool) -> None:
    paths = _paths(out, sorted({scene for scene in scenes if scene is not None}), network)
    if not overwrite and (existing := next(filter(Path.exists, [out / "objects.csv", *paths.values()]), None)):
        raise FileExistsError(f"{existing} exists already: choose another folder, or `overwrite` it")


def _paths(out: Path, scenes: Sequence[int], network: Network) -> dict[int, Path]:
    names = file_names(network.name(scene) for scene in scenes)
    return {scene: out / f"{name}.png" for scene, name in zip(scenes, names, strict=True)}


def _fit(size: tuple[int, int]) -> tuple[int, int]:
    """The size in which a picture is compared: smaller than itself or equal."""
    scale = min(1, _SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class _Sums:
    """Of one class of objects in the pictures of one class of scenes."""

    def __init__(self) -> None:
        self.pictures = self.seen = 0
        self.overlap = self.covered = 0.0
        self.best, self.example = -1.0, -1  # the picture that shows it best


class _Tally:
    """Sums over pictures."""

    def __init__(self) -> None:
        self.scenes: Counter[int] = Counter()
        self.rows: dict[int, dict[int, _Sums]] = {}

    def add(
        self, scene: int, index: int, regions: Mapping[int, np.ndarray], high: np.ndarray, seen: np.ndarray
    ) -> None:
        """Count one picture: its objects, its high-activation area and what the network saw, all bool [h, w]."""
        self.scenes[scene] += 1
        area = int(high.sum())
        for place, region in regions.items():
            sums = self.rows.setdefault(scene, {}).setdefault(place, _Sums())
            sums.pictures += 1
            shown = region & seen
            if not shown.any() or not area:
                continue
            common = int((shown & high).sum())
            overlap, covered = common / int(shown.sum()), common / area
            sums.seen += 1
            sums.overlap += overlap
            sums.covered += covered
            if overlap * covered > sums.best:
                sums.best, sums.example = overlap * covered, index

    def ranked(self, names: Sequence[str], network: Network, least: float) -> list[SceneObject]:
        """The table: of each scene the objects that are frequent enough first, then by overlap."""
        found = []
        for scene in sorted(self.rows):
            total, rows = self.scenes[scene], []
            for place, sums in self.rows[scene].items():
                overlap, covered = (
                    value / sums.seen if sums.seen else float("nan") for value in (sums.overlap, sums.covered)
                )
                row = SceneObject(
                    scene, network.name(scene), 0, names[place], sums.pictures, sums.pictures / total, overlap, covered
                )
                rare = row.frequency < least or not sums.seen
                rows.append(((rare, -overlap if sums.seen else 0, -sums.pictures, names[place]), row))
            rows.sort(key=lambda pair: pair[0])
            found += [row._replace(rank=rank) for rank, (_, row) in enumerate(rows, 1)]
        return found

    def example(self, scene: int, place: int) -> int | None:
        """The picture of a scene that shows an object best, None if none does."""
        index = self.rows[scene][place].example
        return None if index < 0 else index


def _written(
    out: Path, objects: Sequence[SceneObject], tally: _Tally, data: Scenes, network: Network, settings: ObjectsSettings
) -> Iterator[Path]:
    """Write the table and the figures."""
    table = out / "objects.csv"
    with replacing(table) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(SceneObject._fields)
        for row in objects:
            lines.writerow([f"{value:.6f}" if isinstance(value, float) else value for value in row])
    yield table
    places = {name: place for place, name in enumerate(data.object_names)}
    for scene, path in _paths(out, sorted(tally.rows), network).items():
        rows = [row for row in objects if row.scene == scene]
        informative = rows[: settings.top]
        chosen = [(row, tally.example(scene, places[row.object])) for row in informative]
        examples = _examples(scene, chosen, places, data, network, settings)
        frequent = sorted(rows, key=lambda row: (-row.frequency, row.rank))[: settings.top]
        figure = scene_figure(
            f"{network.name(scene)}: {tally.scenes[scene]} pictures",
            [Line(row.object, row.frequency, row.overlap, row in informative) for row in frequent],
            [Line(row.object, row.frequency, row.overlap, True) for row in informative],
            examples,
        )
        yield drawing.save(figure, path)


def _examples(
    scene: int,
    chosen: Sequence[tuple[SceneObject, int | None]],
    places: Mapping[str, int],
    data: Scenes,
    network: Network,
    settings: ObjectsSettings,
) -> list[Example]:
    """For each object the picture that shows it best, with the map; run again, since maps are not kept."""
    shown = [(row, index) for row, index in chosen if index is not None]
    found: list[Example] = []

    def also(index: int, geometry: Geometry) -> dict[int, np.ndarray]:
        return data.regions(index, _fit(geometry.original))

    following = iter([row for row, _ in shown])
    with quiet_pillow(), quiet_methods():
        for batch in network.ready(data.labelled(), [index for _, index in shown], settings.batch_size, also):
            pairs = [(row, one) for one, row in zip(batch, following, strict=False) if isinstance(one, Ready)]
            if not pairs:  # they were read before
                continue
            run = network.observe([one for _, one in pairs], [scene] * len(pairs))
            for (row, one), map in zip(pairs, network.cam(run).cpu().numpy(), strict=True):
                size = _fit(one.geometry.original)
                picture = np.asarray(as_rgb(one.image).resize(size))
                heat = one.geometry.spread(map, size).clip(0, 1)
                region = one.known[places[row.object]]
                found.append(Example(f"{row.rank}. {row.object}", picture, heat, region, settings.level))
    return found
