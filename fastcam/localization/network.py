"""Batches of pictures through the network, to rows."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam import drawing, methods
from fastcam._files import replacing
from fastcam.localization.passes import Compiled, Run, observed
from fastcam.methods.running import MixedPicturesError, check_rows
from fastcam.methods.scores import Outputs, check_names, probabilities, recognise
from fastcam.models import unwrap
from fastcam.models.ranking import ranks_of
from fastcam.pictures import DecodeError, Encoded, Geometry, Preprocess, gpu, read
from fastcam.runs.folder import OVERLAY_COMMENT, RunFolder
from fastcam.runs.maps import scaled
from fastcam.runs.schema import Row


class Picture(NamedTuple):
    """One picture made ready for the network, or the reason why it is not.

    Attributes:
        key: its id.
        frame: uint8 [size, size, 3], RGB; a JPEG that the network's GPU is to decode; None if it failed.
        geometry: from the frame to the picture.
        target: class asked for.
        error: "code: reason".
        orientation: as it was stored, see `fastcam.pictures.Decoded`.
        decoder: likewise.
        thumbnail: uint8 [h, w, 3], where an overlay is wanted.
        truth: true boxes [B, 4] as fractions of width and height, for the overlay.
        index: its place among all inputs.
    """

    key: str
    frame: np.ndarray | Tensor | Encoded | None = None
    geometry: Geometry | None = None
    target: int | None = None
    error: str | None = None
    orientation: int | None = None
    decoder: str | None = None
    thumbnail: np.ndarray | None = None
    truth: np.ndarray | None = None
    index: int = 0

    def failed(self, error: str) -> Row:
        """Make the row of a picture that failed.

        Args:
            error: "code: reason".

        Returns:
            The row.
        """
        width, height = self.geometry.original if self.geometry else (None, None)
        found = {"orientation": self.orientation, "decoder": self.decoder}
        return Row(self.key, width, height, status="error", error=error, **found)


class Network:
    """A model and a method, as the settings of a plan have them. Used in a `with` block, which puts the model back.

    Args:
        model: the network, on its device.
        settings: of the plan.
        class_names: of its classes, () if unknown.
        out: the run's folder, for overlays.

    Attributes:
        smallest_batch: size of the smallest batch that was needed to get by with the memory.
        outputs: what the network's outputs are, see `fastcam.methods.scores`; None before the first batch.

    Raises:
        TypeError, ValueError: an option of the method is wrong, or the decoder is not for this machine.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Mapping[str, Any],
        class_names: tuple[str, ...],
        out: Path,
    ) -> None:
        self.settings, self.class_names, self.out, self.model = settings, class_names, out, model
        self.preprocess = Preprocess(
            settings["size"], settings["resize"], tuple(settings["mean"]), tuple(settings["std"])
        )
        self.cam = methods.create(
            settings["method"],
            model,
            target_layers=settings["target_layers"],
            relu=settings["relu"],
            mode=settings["mode"],
            backend=settings["backend"],
        )
        self.num_classes: int | None = settings["num_classes"]
        self.like = next(model.parameters(), torch.empty(0))
        if settings["decoder"] == "nvjpeg":
            gpu.check(self.like.device)
        self.smallest_batch: int = settings["batch_size"]
        self.outputs: Outputs | None = None
        self._rows_checked = False
        self._compiled = Compiled(self.cam, settings["compile"]) if settings["compile"] else None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(self.settings["threads"])
        if self.settings["channels_last"]:
            self._stack.enter_context(_channels_last(self.model))
        if self._compiled is not None:
            self._stack.enter_context(self._compiled)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def facts(self) -> dict[str, Any]:
        """What the network's own doing tells of the run, for its marks.

        Returns:
            batch, outputs, and of the method grids and cautions: JSON.
        """
        return {
            "batch": self.smallest_batch,
            "outputs": self.outputs,
            "grids": self.cam.grids,
            "cautions": self.cam.cautions,
        }

    def rows(self, batch: list[Picture]) -> list[Row]:
        """Localize in the pictures of a batch.

        A batch of fewer pictures, or with such that failed, is filled up with black ones, so that the network always
        sees the same shape and every picture has the same place.

        Args:
            batch: at most `batch_size` pictures.

        Returns:
            Their rows, in order. If the network fails on a batch, but not on a black one, all pictures of the batch
            get the error as their row. If memory runs out, they are computed in halves, and so are all that follow.

        Raises:
            RuntimeError, ValueError: the network fails on a black batch as well, or mixes the pictures of a batch.
        """
        batch = [self._checked(picture) for picture in batch]
        if all(picture.error is not None for picture in batch):
            return [picture.failed(picture.error) for picture in batch]
        size, found = self.smallest_batch, []
        try:
            for at in range(0, len(batch), size):
                batch[at : at + size] = self._decoded(batch[at : at + size])
                found += self._localize(batch[at : at + size], size)
            return found
        except MixedPicturesError:
            raise
        except (RuntimeError, ValueError) as error:
            memory = _out_of_memory(error)
            if memory and size > 1:
                self.smallest_batch = -(-size // 2)
            elif not self._sound():
                raise
            else:
                code = "memory" if memory else "model"
                reason = f"{code}: {next(iter(str(error).splitlines()), type(error).__name__)}"
                return [picture.failed(picture.error or reason) for picture in batch]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.rows(batch)

    def _sound(self) -> bool:
        """Whether the network works on a black picture; then a failure is the batch's, not the set-up's."""
        side = self.settings["size"]
        black = Picture("", np.zeros((side, side, 3), np.uint8), Geometry((side, side), (side, side)), 0)
        try:
            self._localize([black], self.smallest_batch)
        except (RuntimeError, ValueError):
            return False
        return True

    def _checked(self, picture: Picture) -> Picture:
        classes, target = self.num_classes, picture.target
        if target is None or (target >= 0 and (classes is None or target < classes)):
            return picture
        return picture._replace(error=f"no_target: class {target} is none of the model's {classes or ''}".rstrip())

    def _decoded(self, batch: list[Picture]) -> list[Picture]:
        """Decode what was left to the GPU, and what fails there on the CPU."""
        waiting = [i for i, picture in enumerate(batch) if picture.error is None and isinstance(picture.frame, Encoded)]
        if not waiting:
            return batch
        found = gpu.frames([batch[i].frame for i in waiting], self.preprocess, self.like.device)
        for i, frame in zip(waiting, found, strict=True):
            picture = batch[i]
            batch[i] = picture._replace(frame=frame, decoder="nvjpeg") if frame is not None else self._on_cpu(picture)
        return batch

    def _on_cpu(self, picture: Picture) -> Picture:
        try:
            found = read(picture.frame.data)
            frame, geometry = self.preprocess.frame(found.pixels)
        except DecodeError as error:
            return Picture(picture.key, error=str(error), index=picture.index)
        return picture._replace(frame=frame, geometry=geometry, decoder=found.decoder)

    def _localize(self, batch: list[Picture], size: int) -> list[Row]:
        side = self.settings["size"]
        frames = np.zeros((size, side, side, 3), np.uint8)
        targets = np.zeros((size, 1), np.int64)
        for i, picture in enumerate(batch):
            if picture.error is None:
                targets[i] = picture.target or 0
                if isinstance(picture.frame, np.ndarray):
                    frames[i] = picture.frame
        pixels = torch.from_numpy(frames).to(self.like.device)
        for i, picture in enumerate(batch):
            if picture.error is None and isinstance(picture.frame, Tensor):
                pixels[i] = picture.frame
        images = self.preprocess.normalize(pixels).to(self.like.dtype)
        if self.settings["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        top_k = self.settings["top_k"]
        chosen = None if top_k else torch.from_numpy(targets).to(images.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.settings["precision"] == "bfloat16"):
            run = self._run(images, chosen, top_k)
            if not self._rows_checked:  # others of the batch may be black filler, which is to decide about nobody's row
                check_rows(unwrap(self.model), images, run.logits)
                self._rows_checked = True
            if self.outputs is None:
                plain = run.linear() and run.logits.shape[1] > 1
                self.outputs = "logits" if plain else recognise(self.model, images)
        check_names(self.class_names, run.logits.shape[1])
        logits, classes = run.logits.float(), run.classes
        self.num_classes = logits.shape[1]
        if top_k:
            ranks = torch.arange(1, classes.shape[1] + 1, device=classes.device).expand_as(classes)
        else:
            ranks = ranks_of(logits, classes)
        scores = probabilities(logits, self.outputs).gather(1, classes)
        found = self._components(run) if self.settings["boxes"] == "all" else self._largest(run)
        cams = scaled(run.coarse().double().cpu().numpy()) if self.settings["maps"] else None

        finite = logits.isfinite().all(1).tolist()
        columns = ranks.tolist(), classes.tolist(), scores.tolist(), found
        rows: list[Row] = []
        for i, picture in enumerate(batch):
            if picture.error is not None or not finite[i]:
                rows.append(picture.failed(picture.error or "model: its logits are not finite"))
                continue
            first, how = len(rows), (picture.orientation, picture.decoder)
            for k, (rank, c, score, (corners, peaks)) in enumerate(
                zip(*(column[i] for column in columns), strict=True)
            ):
                name = self.class_names[c] if self.class_names else None
                what = picture.key, *picture.geometry.original, rank, c, name, score
                boxes = picture.geometry.to_original(corners).tolist()
                for number, (edges, peak) in enumerate(zip(boxes, peaks, strict=True), 1):
                    cam = () if cams is None or number > 1 else (cams[i, k].tobytes(), *cams.shape[-2:])
                    rows.append(Row(*what, *edges, "ok", None, number, score * peak, *how, *cam))
            if picture.thumbnail is not None:
                self._draw(picture, run.maps()[i, 0], rows[first])
        return rows

    def _run(self, images: Tensor, chosen: Tensor | None, top_k: int | None) -> Run:
        if self._compiled is not None:
            return self._compiled(images, chosen, top_k)
        return observed(self.cam, images, chosen, top_k)

    def _largest(self, run: Run) -> list[list[tuple[np.ndarray, list[float]]]]:
        """The largest box of each map, with 1 for the peak in it: the full-size maps never exist."""
        boxes = run.boxes(self.settings["threshold"]).cpu().numpy()
        return [[(box[None], [1.0]) for box in row] for row in boxes]

    def _components(self, run: Run) -> list[list[tuple[np.ndarray, list[float]]]]:
        """The boxes of all components that are large enough, largest first, and of the largest in any case."""
        maps = run.maps()
        ranks, (height, width) = maps.shape[1], maps.shape[-2:]
        flat = maps.flatten(0, 1)
        masks = flat > torch.tensor(self.settings["threshold"], dtype=torch.float32)
        boxes, areas, owners = (part.cpu().numpy() for part in self.cam.ops.components(masks))
        heights = flat.cpu().numpy()
        found = [[(np.zeros((1, 4), np.int32), [1.0])] * ranks for _ in maps]  # where there is none
        order = np.lexsort((-areas, owners))  # stable: the first in raster order where they tie
        for chosen in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
            if len(chosen):
                owner = owners[chosen[0]]
                large = areas[chosen] >= self.settings["min_area"] * height * width
                large[0] = True
                kept = boxes[chosen[large]]
                peaks = [float(heights[owner, y0:y1, x0:x1].max()) for x0, y0, x1, y1 in kept]
                found[owner // ranks][owner % ranks] = kept, peaks
        return found

    def _draw(self, picture: Picture, map: Tensor, row: Row) -> None:
        height, width = picture.thumbnail.shape[:2]
        scale = np.array([width, height] * 2) / np.array(picture.geometry.original * 2)
        panel = drawing.panel(
            picture.thumbnail,
            picture.geometry.spread(map.cpu().numpy(), (width, height)),
            np.array([row.x0, row.y0, row.x1, row.y1]) * scale,
            () if picture.truth is None else picture.truth * ([width, height] * 2),
        )
        with replacing(RunFolder(self.out).overlay(picture.index, picture.key)) as path, path.open("wb") as file:
            Image.fromarray(panel).save(file, "JPEG", quality=90, comment=OVERLAY_COMMENT)


@contextmanager
def _channels_last(model: nn.Module) -> Iterator[None]:
    """Lay out the weights of convolutions as their kernels like it, and at the end as they were."""
    last = torch.channels_last
    turned = [p for p in model.parameters() if p.dim() == 4 and not p.is_contiguous(memory_format=last)]
    turned = [p for p in turned if not p.is_inference()]
    for parameter in turned:
        parameter.data = parameter.data.contiguous(memory_format=last)
    try:
        yield
    finally:
        for parameter in turned:
            parameter.data = parameter.data.contiguous()


def _out_of_memory(error: Exception) -> bool:
    # On a CPU torch has no class of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
