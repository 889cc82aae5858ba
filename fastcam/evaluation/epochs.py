"""Localization after each epoch of a training."""

import os

import numpy as np
import torch
from torch import nn

from fastcam import methods
from fastcam._check import listed
from fastcam.data import Dataset, Sample, read_for
from fastcam.evaluation.evaluator import Evaluator
from fastcam.evaluation.pseudo import PseudoBoxed
from fastcam.evaluation.settings import MapSettings
from fastcam.evaluation.sources.network import method_of
from fastcam.evaluation.sources.source import opened
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from fastcam.pictures.stream import batched, stream


def localizer(
    method: str = "cam", batch_size: int = 32, *, pseudo_boxes: str | os.PathLike[str] | None = None
) -> "Localizer":
    """Make a callback for `fastcam.train` that measures by the standard protocol how well maps find the objects.

    Args:
        method: a key of `fastcam.methods.BOX_METHODS`.
        batch_size: pictures per forward pass.
        pseudo_boxes: boxes of the pictures that nobody has checked, by which an epoch can be chosen where there are no
            true ones: boxes.parquet of a run, or a data set that has them for boxes, as a CSV of
            image_id,x0,y0,x1,y1, COCO's JSON or WSOL metadata. See `fastcam.evaluation.pseudo` for the source, and for
            what such a choice is worth.

    Returns:
        A function of network, its configuration and a data set with boxes. It gives figures in percent under the names
        of `Result.figures`: "GT-known Loc", "MaxBoxAcc", "Top-1 Loc" and others; with `pseudo_boxes` also
        "pseudo-MaxBoxAcc" and so on, and the others only where there are true boxes. Pictures without a label are left
        out.
    """
    return Localizer(method, batch_size, pseudo_boxes)


class Localizer:
    """What `localizer` makes."""

    def __init__(self, method: str, batch_size: int, pseudo_boxes: str | os.PathLike[str] | None) -> None:
        self._method, self._batch_size, self._path = method, batch_size, pseudo_boxes
        self._boxed: tuple[Dataset, PseudoBoxed] | None = None  # of the data set that was given last

    def check(self, data: Dataset) -> None:
        """See before a training that it can be tested: each labelled picture must have a pseudo-box, if any are given.

        Args:
            data: the pictures to test on.

        Raises:
            FileNotFoundError: there is no such file of pseudo-boxes.
            ValueError: it is no such file, or pictures have none in it.
        """
        pseudo = self._pseudo(data)
        if pseudo is None:
            return
        lacking, labels = set(pseudo.missing), pseudo.labels or [None] * len(pseudo)
        missing = [id for id, label in zip(pseudo.ids, labels, strict=True) if label is not None and id in lacking]
        if missing:
            raise ValueError(
                f"{pseudo.path} has no pseudo-box of {len(missing)} of {len(pseudo)} pictures to test on: "
                f"{listed(missing, 3)}"
            )

    def __call__(self, model: nn.Module, config: ModelConfig, data: Dataset) -> dict[str, float]:
        """Measure.

        Args:
            model: the network.
            config: its configuration.
            data: the pictures to test on.

        Returns:
            The figures in percent.

        Raises:
            ValueError: a picture has no box.
        """
        given, pseudo = Evaluator(metrics=["MaxBoxAcc"], bootstrap=0), self._pseudo(data)
        guessed = Evaluator(metrics=["MaxBoxAcc"], bootstrap=0)
        cam = method_of(model, given.protocol, MapSettings(self._method))
        preprocess, device = Preprocess.of(config), next(model.parameters()).device
        side, pictures = (preprocess.size, preprocess.size), read_for(data, preprocess.reading)

        def read(index: int) -> tuple[Sample, Sample | None, np.ndarray]:
            sample = pictures[index]
            truth = sample._replace(image=None, id=sample.id or str(index))
            guess = None
            if pseudo is not None and truth.label is not None:
                guess = pseudo.truth(index)._replace(id=truth.id, label=truth.label)
            return truth, guess, given.protocol.frame(preprocess.taken(sample.image), side)

        boxed = False
        with quiet_methods():
            for read_ahead in stream(batched(range(len(data)), self._batch_size), read):
                # A picture of no class, as there may be where others have several, has no class's map.
                batch = [one for one in read_ahead if one[0].label is not None]
                if not batch:
                    continue
                truths, frames = [truth for truth, _, _ in batch], np.stack([frame for _, _, frame in batch])
                run = methods.observe(
                    [cam],
                    preprocess.normalize(torch.from_numpy(frames).to(device)),
                    [truth.label for truth in truths],
                )
                coarse = cam.coarse(run)
                coarse = (coarse.relu() if cam.relu else coarse).float().cpu()
                ids, logits = [truth.id or "" for truth in truths], run.logits.detach().float().cpu()
                if guesses := [guess for _, guess, _ in batch if guess is not None]:
                    guessed.add_coarse(ids, coarse, guesses, logits=logits)
                rows = [row for row, truth in enumerate(truths) if not guesses or truth.boxes is not None]
                if rows:
                    boxed, chosen = True, [truths[row] for row in rows]
                    given.add_coarse([ids[row] for row in rows], coarse[rows], chosen, logits=logits[rows])
        result = given.result() if boxed else guessed.result()
        tell([*cam.cautions, constant(result.maps[1], result.maps[0], cam.grids)])
        figures = result.figures if boxed else {}
        others = {} if pseudo is None else guessed.result().figures
        return figures | {f"pseudo-{name}": value for name, value in others.items() if not name.endswith("Cls")}

    def _pseudo(self, data: Dataset) -> PseudoBoxed | None:
        if self._path is None:
            return None
        if self._boxed is None or self._boxed[0] is not data:
            protocol = Evaluator(metrics=["MaxBoxAcc"], bootstrap=0).protocol
            self._boxed = data, PseudoBoxed(opened(data), self._path, protocol)
        return self._boxed[1]
