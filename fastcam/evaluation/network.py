"""Score maps straight from a network: one forward pass gives maps and logits."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam import methods, models
from fastcam.data import Sample
from fastcam.evaluation.protocols import Protocol
from fastcam.evaluation.settings import MapSettings
from fastcam.evaluation.sources import Batch, Loaded, Source, attempt
from fastcam.methods.forward import Forward
from fastcam.methods.running import check_rows
from fastcam.models import ModelConfig, ThresholdedAvgPool2d
from fastcam.models.digest import digest
from fastcam.models.ranking import ranks_of
from fastcam.pictures import Preprocess, as_rgb


class Network(Source):
    """Maps of one method on one network.

    Args:
        data: the data set.
        model: network from [N, 3, size, size] to logits [N, C].
        config: of which size, mean, std and the number of classes are used; by default 224 pixels and ImageNet's mean
            and std, or what timm's networks know of themselves. How pictures are resized is the protocol's affair.
        protocol: it.
        settings: method, target layers and their options.
        targets: "label" for maps of the true class; "highest" for maps of each picture's highest class.

    Attributes:
        order: see `fastcam.evaluation.sources.Source`.
        problems: likewise.
        info: likewise.
        labelled: whether the maps are of the true classes.
        cam: the method.

    Raises:
        ValueError: an unknown method or option.
    """

    problems: Sequence[tuple[str, str]] = ()

    def __init__(
        self,
        data: Any,
        model: nn.Module,
        config: ModelConfig | None = None,
        *,
        protocol: Protocol,
        settings: MapSettings,
        targets: Literal["label", "highest"] = "label",
    ) -> None:
        method, clamp, smooth = settings.method, settings.clamp, settings.smooth
        if method not in methods.METHODS:
            raise ValueError(f"unknown method of maps {method!r}{models.suggest(method, list(methods.METHODS))}")
        if clamp and method != "cam":
            raise ValueError(f"`clamp` is for the method cam, whose weights are the classifier's; got {method}")
        if wrong := [name for name in smooth if name not in ("aug", "eigen")]:
            raise ValueError(f'`smooth` may have "aug" and "eigen", got {wrong[0]!r}')
        options = {"relu": settings.relu, "mode": protocol.mode} | ({"clamp": True} if clamp else {})
        self.data, self.labelled, self._protocol = data, targets == "label", protocol
        self.cam = methods.create(method, model, target_layers=settings.target_layers, **options)
        self._pooled = [methods.CAM(model)] if settings.tap else []
        self._aug, self._eigen = "aug" in smooth, "eigen" in smooth
        # Maps of several views or layers have no common coarse map: they are made at the picture's size.
        self._whole = self._aug or len(self.cam.layers) > 1
        self._relu = self.cam.relu and not self._whole
        self._rows_checked = False
        self._classes = None if config is None else config.num_classes
        self._like = next(model.parameters(), torch.empty(0))
        self.preprocess = Preprocess.of(config, model)
        self.order = range(len(data))
        self.info = {
            "arch": config and config.arch,
            "weights": digest(model),
            "method": method,
            "layers": list(self.cam.layers),
            "tap": settings.tap,
            "clamp": clamp,
            "relu": self._relu,
            "smooth": sorted(smooth),
            "targets": targets,
            "crop": protocol.crop,
            "size": self.preprocess.size,
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
        }

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int]]:  # noqa: D102 (see Source)
        return ((position,) for position in positions)

    def load(self, place: int) -> Loaded:  # noqa: D102 (see Source)
        return attempt(place, self.data.ids[place], lambda: self._framed(self.data[place]))

    def finish(self, loaded: Sequence[Loaded]) -> Batch:  # noqa: D102 (see Source)
        images, labels = self.images(loaded)
        run = methods.observe([self.cam, *self._pooled], images, labels, aug_smooth=self._aug)
        self.check(run)
        return self.batch(loaded, run.with_pooling(ThresholdedAvgPool2d()) if self._pooled else run)

    def images(self, loaded: Sequence[Loaded]) -> tuple[Tensor, Tensor | None]:
        """Put loaded pictures together.

        Args:
            loaded: N of them, at least one.

        Returns:
            [N, 3, size, size], normalised, on the network's device and of its dtype, and the classes whose maps are
            wanted, int64 [N]; None for each picture's highest.
        """
        frames = torch.from_numpy(np.stack([one.content for one in loaded])).to(self._like.device)
        labels = [one.truth.label for one in loaded] if self.labelled else None
        images = self.preprocess.normalize(frames).to(self._like.dtype)
        return images, None if labels is None else torch.tensor(labels, device=frames.device)

    def check(self, run: Forward) -> None:
        """See in the first run that pictures do not depend on each other.

        Args:
            run: of the network as it is, with its own pooling.

        Raises:
            ValueError: the network mixes the pictures of a batch.
        """
        if not self._rows_checked:
            check_rows(run.model, run.images, run.logits)
            self._rows_checked = True

    def batch(self, loaded: Sequence[Loaded], run: Forward) -> Batch:
        """Make maps of a run of the network.

        Args:
            loaded: the pictures, N of them.
            run: `fastcam.methods.observe` of what `images` gave, for `cam` and maybe other methods.

        Returns:
            Their maps; logits and ranks where they can be compared with labels, as those of several classes can.
        """
        if self._whole:
            maps = self.cam(run, eigen_smooth=self._eigen)
        else:
            maps = self.cam.coarse(run, eigen_smooth=self._eigen)
        classes, logits, ranks = self.cam.targets, None, None
        if self.labelled:
            logits = self.cam.outputs.detach().float().cpu()
            ranks = ranks_of(logits, classes.cpu()[:, None])[:, 0].tolist()
        if self.cam.outputs.shape[1] == 1:  # a single class is always the highest, which says nothing
            logits, ranks = None, None
        self._classes = self.cam.outputs.shape[1]
        return Batch(loaded, maps.cpu(), True, self._relu, classes.tolist(), logits, ranks)

    def _framed(self, sample: Sample) -> tuple[Sample, np.ndarray]:
        if self.labelled and sample.label is None:
            raise ValueError('it has no label, whose map could be taken; targets="highest" needs none')
        if self.labelled and self._classes is not None and not 0 <= sample.label < self._classes:
            raise ValueError(f"its label {sample.label} is none of the network's {self._classes} classes")
        return sample, frame(self._protocol, sample.image, (self.preprocess.size, self.preprocess.size))


def frame(protocol: Protocol, image: Image.Image | np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Show a picture as a protocol frames it: whole and squashed, or the centre of that.

    Args:
        protocol: it.
        image: upright, PIL or RGB of uint8 [H, W, 3].
        size: (height, width) to give the frame, in pixels.

    Returns:
        uint8 [height, width, 3].

    Raises:
        TypeError, ValueError: as `fastcam.pictures.as_rgb`.
    """
    image = as_rgb(image)
    width_height = size[::-1]
    if protocol.crop is None:
        return np.array(image.resize(width_height, Image.Resampling.BILINEAR))
    resized = [round(side * protocol.crop / of) for side, of in zip(width_height, protocol.size[::-1], strict=True)]
    left, top = ((whole - side) // 2 for whole, side in zip(resized, width_height, strict=True))
    image = image.resize(resized, Image.Resampling.BILINEAR)
    return np.array(image.crop((left, top, left + width_height[0], top + width_height[1])))
