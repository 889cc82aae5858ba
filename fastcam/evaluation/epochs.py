"""Localization after each epoch of a training."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from fastcam import methods
from fastcam.data import Dataset, Sample
from fastcam.evaluation.evaluator import Evaluator
from fastcam.evaluation.settings import MapSettings
from fastcam.evaluation.sources.network import method_of
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from fastcam.pictures.stream import batched, stream


def localizer(
    method: str = "cam", batch_size: int = 32
) -> Callable[[nn.Module, ModelConfig, Dataset], dict[str, float]]:
    """Make a callback for `fastcam.train` that measures by the standard protocol how well maps find the objects.

    Args:
        method: a key of `fastcam.methods.BOX_METHODS`.
        batch_size: pictures per forward pass.

    Returns:
        A function of network, its configuration and a data set with boxes. It gives figures in percent under the names
        of `Result.figures`: "GT-known Loc", "MaxBoxAcc", "Top-1 Loc" and others. Pictures without a label are left out.
    """

    def measure(model: nn.Module, config: ModelConfig, data: Dataset) -> dict[str, float]:
        evaluator = Evaluator(metrics=["MaxBoxAcc"], bootstrap=0)
        cam = method_of(model, evaluator.protocol, MapSettings(method))
        preprocess, device = Preprocess.of(config), next(model.parameters()).device
        side = preprocess.size, preprocess.size

        def read(index: int) -> tuple[Sample, np.ndarray]:
            sample = data[index]
            truth = sample._replace(image=None, id=sample.id or str(index))
            return truth, evaluator.protocol.frame(sample.image, side)

        with quiet_methods():
            for read_ahead in stream(batched(range(len(data)), batch_size), read):
                # A picture of no class, as there may be where others have several, has no class's map.
                batch = [(truth, frame) for truth, frame in read_ahead if truth.label is not None]
                if not batch:
                    continue
                truths, frames = [truth for truth, _ in batch], np.stack([frame for _, frame in batch])
                run = methods.observe(
                    [cam],
                    preprocess.normalize(torch.from_numpy(frames).to(device)),
                    [truth.label for truth in truths],
                )
                coarse = cam.coarse(run)
                coarse = coarse.relu() if cam.relu else coarse
                ids, logits = [truth.id or "" for truth in truths], run.logits.detach().float().cpu()
                evaluator.add_coarse(ids, coarse.float().cpu(), truths, logits=logits)
        result = evaluator.result()
        tell([*cam.cautions, constant(result.maps[1], result.maps[0], cam.grids)])
        return result.figures

    return measure
