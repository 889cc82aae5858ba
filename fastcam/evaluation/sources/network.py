"""Score maps straight from a network: one forward pass gives maps and logits."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastcam import methods
from fastcam._check import suggest
from fastcam.data import Collection, Sample, classes_of, read_for
from fastcam.evaluation.protocols import Protocol
from fastcam.evaluation.result import Result
from fastcam.evaluation.settings import MapSettings
from fastcam.evaluation.sources.source import Loaded, Maps, Source
from fastcam.methods.cautions import constant
from fastcam.methods.core import Method, observe_scales
from fastcam.methods.forward import Forward
from fastcam.methods.running import check_rows
from fastcam.methods.scales import ScaledRun, checked
from fastcam.methods.scores import Outputs, recognise
from fastcam.models import ModelConfig, Scores, ThresholdedAvgPool2d
from fastcam.models.digest import digest
from fastcam.models.ranking import ranks_of
from fastcam.pictures import Preprocess


class NetworkMaps(Source[None, np.ndarray]):
    """Maps of one method on one network.

    Of `config` size, mean, std and the number of classes are used; how pictures are resized is the protocol's affair.
    `targets` is "label" for maps of the true class, "highest" for those of each picture's highest class. Where the data
    set has pictures of several classes, those of them that the network knows are `ranked`; `scores` tells how logits
    become scores then, where the configuration does not. Raises ValueError for an unknown method or option.
    """

    def __init__(
        self,
        data: Collection,
        model: nn.Module,
        config: ModelConfig | None,
        protocol: Protocol,
        settings: MapSettings,
        targets: Literal["label", "highest"] = "label",
        scores: Scores | None = None,
    ) -> None:
        self.cam = method_of(model, protocol, settings)
        self.preprocess = Preprocess.of(config, model)
        self.data = read_for(data, self.preprocess.reading)
        self.labelled, self.order = targets == "label", range(len(data))
        self._model, self._config, self._protocol, self._settings = model, config, protocol, settings
        self._pooled = [methods.CAM(model)] if settings.tap else []
        self._aug, self.eigen = "aug" in settings.smooth, "eigen" in settings.smooth
        self._scales = checked(settings.scales, settings.flip)
        # Maps of several views or layers have no common coarse map: they are made at the picture's size.
        self._whole = self._aug or self.cam.several
        self._relu = self.cam.relu and not (self._whole or self._scales)
        self._rows_checked = False
        self._outputs = None if config is None else config.num_classes
        self._scores = scores or (None if config is None else config.scores)
        self._kind: Outputs | None = None  # of the outputs, once they are seen
        known = [classes or () for classes in classes_of(data) or ()] if self.labelled else []
        if any(len(classes) > 1 for classes in known) and self._outputs != 1:
            every = {one for classes in known for one in classes if self._outputs is None or one < self._outputs}
            self.ranked = tuple(sorted(every))
        self._like = next(model.parameters(), torch.empty(0))

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """Method, network and how it sees pictures."""
        return {
            "arch": self._config and self._config.arch,
            "weights": digest(self._model),
            "method": self._settings.method,
            "layers": list(self.cam.layers),
            "tap": self._settings.tap,
            "clamp": self._settings.clamp,
            "relu": self._relu,
            "smooth": sorted(self._settings.smooth),
            "scales": list(self._scales),
            "flip": self._settings.flip,
            "targets": "label" if self.labelled else "highest",
            "crop": self._protocol.crop,
            "size": self.preprocess.size,
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            **{name: value for name, value in self.preprocess.facts().items() if name in ("channels", "scale")},
        } | ({"scores": self._scores, "ranked": list(self.ranked)} if self.ranked else {})

    @property
    def num_classes(self) -> int | None:
        """Those of the network, which labels must be."""
        return self._config.num_classes if self._config is not None and self.labelled else None

    def cautions(self, result: Result | None) -> list[str | None]:
        """Those of the method, too."""
        empty = None if result is None else constant(result.maps[1], result.maps[0], self.cam.grids)
        return [*self.cam.cautions, empty]

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, None]]:
        """Places are positions."""
        return ((position, None) for position in positions)

    def read(self, place: int, what: None) -> tuple[Sample, np.ndarray]:
        """The picture in its frame, [size, size, C], see `Preprocess.frame`."""
        sample, side = self.data[place], self.preprocess.size
        if self.labelled:
            if sample.label is None:
                raise ValueError('it has no label, whose map could be taken; targets="highest" needs none')
            if self._outputs is not None and not 0 <= sample.label < self._outputs:
                raise ValueError(f"its label {sample.label} is none of the network's {self._outputs} classes")
        return sample, self._protocol.frame(self.preprocess.taken(sample.image), (side, side))

    def finish(self, loaded: Sequence[Loaded[np.ndarray]]) -> Maps:
        """Run the network."""
        images, labels = self.images(loaded)
        found = self.maps(loaded, self._scaled(images, labels) if self._scales else self._plain(images, labels))
        if not self.ranked or found.logits is None:
            return found
        if self._kind is None:
            self._kind = recognise(self._model, images, self._scores)
        return found._replace(scores=self._ranking(found.logits, self._kind))

    def _ranking(self, logits: Tensor, kind: Outputs) -> np.ndarray:
        """What grows with the scores of the classes that are ranked, without their rounding to 0 and 1."""
        if self.ranked[-1] >= logits.shape[1]:
            raise ValueError(
                f"the data set has class {self.ranked[-1]}, none of the network's {logits.shape[1]}: give its `config`"
            )
        values = logits.double().log_softmax(1).float() if kind == "logits" else logits
        return values[:, list(self.ranked)].numpy()

    def _plain(self, images: Tensor, labels: Tensor | None) -> Forward:
        """Run the network once, with the pooling that is asked for."""
        run = methods.observe([self.cam, *self._pooled], images, labels, aug_smooth=self._aug)
        return self._pooled_as_asked(run)

    def _pooled_as_asked(self, run: Forward) -> Forward:
        self.check(run)
        return run.with_pooling(ThresholdedAvgPool2d()) if self._pooled else run

    def _scaled(self, images: Tensor, labels: Tensor | None) -> ScaledRun:
        """The same at all sizes, one after the other."""
        flip = self._settings.flip
        total, cams = ScaledRun(images.shape[-2:], self._scales, flip), [self.cam, *self._pooled]
        options: dict[str, Any] = {"scales": self._scales, "flip": flip, "through": self._pooled_as_asked}
        for scale, run in observe_scales(cams, images, labels, **options):
            total.begin(scale, run)
            total.add(self.cam, run, self.eigen)
            del run
        return total

    def images(self, loaded: Sequence[Loaded[np.ndarray]]) -> tuple[Tensor, Tensor | None]:
        """Put N pictures together, [N, C, size, size], and the classes whose maps are wanted, int64 [N], or None."""
        frames = torch.from_numpy(np.stack([one.content for one in loaded])).to(self._like.device)
        images = self.preprocess.normalize(frames).to(self._like.dtype)
        if not self.labelled:
            return images, None
        return images, torch.tensor([one.truth.label for one in loaded], device=frames.device)

    def check(self, run: Forward) -> None:
        """See in the first run that pictures do not depend on each other; it must have the network's own pooling."""
        if not self._rows_checked:
            check_rows(self.cam.model, run.images, run.logits)
            self._rows_checked = True

    def maps(self, loaded: Sequence[Loaded[np.ndarray]], run: Forward | ScaledRun) -> Maps:
        """Maps of a run of what `images` gave; logits and ranks where these can be compared with labels."""
        make = self.cam if self._whole else self.cam.coarse
        maps, outputs, classes = make(run, eigen_smooth=self.eigen), run.logits[: run.count], run.chosen.classes
        assert classes is not None  # as no target is a callable
        self._outputs = outputs.shape[1]
        logits = ranks = None
        if self.labelled and self._outputs > 1:  # a single class is always the highest, which says nothing
            logits = outputs.detach().float().cpu()
            ranks = ranks_of(logits, classes.cpu())[:, 0].tolist()
        return Maps(loaded, maps.cpu(), self._relu, classes[:, 0].tolist(), logits, ranks, summed=bool(self._scales))


def method_of(model: nn.Module, protocol: Protocol, settings: MapSettings) -> Method:
    """Make the method; raises ValueError for one that is unknown or has no such option."""
    if settings.method not in methods.BOX_METHODS:
        raise ValueError(f"unknown method of maps {settings.method!r}{suggest(settings.method, methods.BOX_METHODS)}")
    if settings.clamp and settings.method != "cam":
        raise ValueError(f"`clamp` is for the method cam, whose weights are the classifier's; got {settings.method}")
    if wrong := [name for name in settings.smooth if name not in ("aug", "eigen")]:
        raise ValueError(f'`smooth` may have "aug" and "eigen", got {wrong[0]!r}')
    layers, relu, mode = settings.target_layers, settings.relu, protocol.mode
    if settings.clamp:
        return methods.CAM(model, layers, relu=relu, mode=mode, clamp=True)
    return methods.BOX_METHODS[settings.method](model, layers, relu=relu, mode=mode)
