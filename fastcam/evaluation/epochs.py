"""Localization after each epoch of a training."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from fastcam import methods
from fastcam.data import Dataset, Sample
from fastcam.evaluation.evaluator import Evaluator
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from fastcam.pictures.stream import batches, in_order


def localizer(
    method: str = "cam", batch_size: int = 32
) -> Callable[[nn.Module, ModelConfig, Dataset], dict[str, float]]:
    """Make a callback for `fastcam.train` that measures by the standard protocol how well maps find the objects.

    Args:
        method: a key of `fastcam.methods.METHODS`.
        batch_size: pictures per forward pass.

    Returns:
        A function of network, its configuration and a data set with boxes. It gives figures in percent under the names
        of `Result.figures`: "GT-known Loc", "MaxBoxAcc", "Top-1 Loc" and others.
    """

    def measure(model: nn.Module, config: ModelConfig, data: Dataset) -> dict[str, float]:
        evaluator, cam = Evaluator(metrics=["MaxBoxAcc"], bootstrap=0), methods.create(method, model)
        # The standard evaluator shows the whole picture, squashed.
        preprocess = dataclasses.replace(Preprocess.of(config), resize="squash")
        device = next(model.parameters()).device

        def read(index: int) -> tuple[Sample, np.ndarray]:
            sample = data[index]
            return sample._replace(image=None, id=sample.id or str(index)), preprocess.frame(sample.image)[0]

        with ThreadPoolExecutor() as pool, quiet_methods():
            jobs = ((index,) for index in range(len(data)))
            for loaded in batches(in_order(pool, read, jobs, 2 * batch_size), batch_size):
                truths, frames = zip(*loaded, strict=True)
                images = preprocess.normalize(torch.from_numpy(np.stack(frames)).to(device))
                coarse = cam.coarse(images, [truth.label for truth in truths])
                coarse = coarse.relu() if cam.relu else coarse
                logits = cam.outputs.detach().float().cpu()
                evaluator.add_coarse([truth.id for truth in truths], coarse.float().cpu(), truths, logits=logits)
        result = evaluator.result()
        tell([*cam.cautions, constant(result.maps[1], result.maps[0], cam.grids)])
        return result.figures

    return measure
