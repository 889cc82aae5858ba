"""Pictures of a data set through a network, batch by batch, for what looks at its last maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fastcam._check import listed
from fastcam.data import Collection, read_for
from fastcam.methods import CAM, observe
from fastcam.methods.forward import Forward
from fastcam.methods.running import check_rows
from fastcam.methods.scores import check_names
from fastcam.models import ModelConfig
from fastcam.pictures import DecodeError, Geometry, Pixels, Preprocess
from fastcam.pictures.stream import batched, stream

T = TypeVar("T")


class Ready(NamedTuple, Generic[T]):
    """A picture made ready.

    Attributes:
        place: where it stands in the data set.
        image: as the data set has it; where the network takes other than RGB of 8 bits, as it takes it.
        frame: [size, size, C], see `fastcam.pictures.Preprocess.frame`.
        geometry: from the frame to the picture.
        known: what else was asked for.
    """

    place: int
    image: Pixels
    frame: np.ndarray
    geometry: Geometry
    known: T


class Failed(NamedTuple):
    """A picture that could not be made ready: its id, and why."""

    id: str
    reason: str


class Network:
    """A network, and the method CAM at its layer.

    ValueError if the layer is unknown, or none is given and the network is of no known family.
    """

    def __init__(self, model: nn.Module, config: ModelConfig | None, layer: str | None) -> None:
        self.model, self.cam = model, CAM(model, layer)
        ((self.layer, self.module),) = self.cam.layers.items()
        self.preprocess = Preprocess.of(config, model)
        self.class_names = config.class_names if config else ()
        self.like = next(model.parameters(), torch.empty(0))
        self._checked = False

    def ready(
        self, data: Collection, indices: Iterable[int], size: int, also: Callable[[int, Geometry], T]
    ) -> Iterator[list[Ready[T] | Failed]]:
        """Read pictures ahead of their use, in batches; `also` is done for each, in the same thread.

        What is wrong with one, a DecodeError or ValueError, stands in its place.
        """
        reading = self.preprocess.reading
        pictures = read_for(data, reading)

        def prepare(index: int) -> Ready[T] | Failed:
            try:
                image = pictures[index].image
                image = image if reading.plain else self.preprocess.taken(image)
                frame, geometry = self.preprocess.frame(image)
                assert image is not None
                return Ready(index, image, frame, geometry, also(index, geometry))
            except (DecodeError, ValueError) as error:
                return Failed(data.ids[index], str(error))

        return stream(batched(indices, size), prepare, prefetch=1)

    def images(self, ready: Sequence[Ready[Any]]) -> Tensor:
        """Input of the network, [N, C, size, size]."""
        frames = torch.from_numpy(np.stack([picture.frame for picture in ready]))
        return self.preprocess.normalize(frames.to(self.like.device)).to(self.like.dtype)

    def observe(self, ready: Sequence[Ready[Any]], classes: Sequence[int] | None) -> Forward:
        """Run the network on pictures, for a class of each or the highest.

        ValueError: the logits of a picture depend on the others, or there are not as many classes as names.
        """
        images = self.images(ready)
        run = observe([self.cam], images, None if classes is None else torch.tensor(classes))
        if not self._checked:
            check_rows(self.model, images, run.logits)
            check_names(self.class_names, run.logits.shape[1])
            self._checked = True
        return run

    def name(self, class_id: int) -> str:
        """What a class is called."""
        return self.class_names[class_id] if self.class_names else f"class {class_id}"


def no_pictures(class_id: int, name: str, present: Iterable[str]) -> ValueError:
    """The error of a class that no picture is of."""
    others = listed([repr(one) for one in present], 8) or "none"
    return ValueError(f"class {class_id}, {name!r}, has no picture in the data set; those that have are {others}")
