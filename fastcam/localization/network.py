"""Batches of pictures through the network, to rows."""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam import methods, visualize
from fastcam.decoding import Geometry, Preprocess
from fastcam.writers import Row, replacing


class Picture(NamedTuple):
    """One picture made ready for the network, or the reason why it is not.

    Attributes:
        key: its id.
        frame: uint8 [size, size, 3], RGB; None if it failed.
        geometry: from the frame to the picture.
        target: class asked for.
        error: "code: reason".
        orientation: as it was stored, see `fastcam.decoding.Decoded`.
        decoder: likewise.
        thumbnail: uint8 [h, w, 3], where an overlay is wanted.
        truth: true boxes [B, 4] in pixels of the picture, for the overlay.
        index: its place among all inputs.
    """

    key: str
    frame: np.ndarray | None = None
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

    Raises:
        TypeError, ValueError: an option of the method is wrong.
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
        self.smallest_batch: int = settings["batch_size"]

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(self.settings["threads"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

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
            RuntimeError, ValueError: the network fails on a black batch as well.
        """
        batch = [self._checked(picture) for picture in batch]
        if all(picture.error is not None for picture in batch):
            return [picture.failed(picture.error) for picture in batch]
        size, found = self.smallest_batch, []
        try:
            for at in range(0, len(batch), size):
                found += self._localize(batch[at : at + size], size)
            return found
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

    def _localize(self, batch: list[Picture], size: int) -> list[Row]:
        side = self.settings["size"]
        frames = np.zeros((size, side, side, 3), np.uint8)
        targets = np.zeros((size, 1), np.int64)
        for i, picture in enumerate(batch):
            if picture.error is None:
                frames[i] = picture.frame
                targets[i] = picture.target or 0
        images = self.preprocess.normalize(torch.from_numpy(frames).to(self.like.device)).to(self.like.dtype)
        top_k = self.settings["top_k"]
        chosen = None if top_k else torch.from_numpy(targets).to(images.device)
        run = methods.observe([self.cam], images, chosen, top_k)
        boxes = self.cam.boxes(run, threshold=self.settings["threshold"])
        logits, classes = run.logits.float(), run.chosen.classes
        self.num_classes = logits.shape[1]
        values = logits.gather(1, classes)
        if top_k:
            ranks = torch.arange(1, classes.shape[1] + 1, device=classes.device).expand_as(classes)
        else:
            ranks = 1 + (logits[:, None] > values[..., None]).sum(-1)
        scores = logits.softmax(1).gather(1, classes)
        cams = self.cam.coarse(run).half().cpu().numpy() if self.settings["maps"] else None

        finite = logits.isfinite().all(1).tolist()
        columns = boxes.cpu().numpy(), ranks.tolist(), classes.tolist(), scores.tolist()
        rows: list[Row] = []
        for i, picture in enumerate(batch):
            if picture.error is not None or not finite[i]:
                rows.append(picture.failed(picture.error or "model: its logits are not finite"))
                continue
            corners, *listed = (column[i] for column in columns)
            first, how = len(rows), (picture.orientation, picture.decoder)
            corners = picture.geometry.to_original(corners).tolist()
            for k, (rank, c, score, edges) in enumerate(zip(*listed, corners, strict=True)):
                name = self.class_names[c] if self.class_names else None
                cam = () if cams is None else (cams[i, k].tobytes(), *cams.shape[-2:])
                what = picture.key, *picture.geometry.original, rank, c, name, score
                rows.append(Row(*what, *edges, "ok", None, 1, score, *how, *cam))
            if picture.thumbnail is not None:
                (map,) = self.cam(run)[i, :1]
                self._draw(picture, map, rows[first])
        return rows

    def _draw(self, picture: Picture, map: Tensor, row: Row) -> None:
        height, width = picture.thumbnail.shape[:2]
        scale = np.array([width, height] * 2) / np.array(picture.geometry.original * 2)
        drawing = visualize.panel(
            picture.thumbnail,
            picture.geometry.spread(map.cpu().numpy(), (width, height)),
            np.array([row.x0, row.y0, row.x1, row.y1]) * scale,
            () if picture.truth is None else np.asarray(picture.truth) * scale,
        )
        # The number keeps the names apart, so the rest may be cut and cleaned.
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", picture.key)[-80:]
        with replacing(self.out / "overlays" / f"{picture.index:06d}_{name}.jpg") as path, path.open("wb") as file:
            Image.fromarray(drawing).save(file, "JPEG", quality=90)


def _out_of_memory(error: Exception) -> bool:
    # On a CPU torch has no class of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
