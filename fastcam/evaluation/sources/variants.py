"""Several methods' maps on one network, from one forward pass for all of them."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import nn

from fastcam import methods
from fastcam._check import suggest
from fastcam.data import Collection
from fastcam.evaluation.protocols import Protocol
from fastcam.evaluation.settings import MapSettings
from fastcam.evaluation.sources.network import NetworkMaps
from fastcam.evaluation.sources.source import Loaded, Maps
from fastcam.methods.forward import Forward
from fastcam.models import ModelConfig, ThresholdedAvgPool2d

_SUFFIXES = ("tap", "clamp", "pas", "eigen", "aug")


class Variant(NamedTuple):
    """A method, and what is changed in it: a row of the table.

    Attributes:
        method: a key of `fastcam.methods.BOX_METHODS`.
        tap: thresholded average pooling instead of the network's own.
        clamp: negative weights count as zero in CAM's map.
        pas: thresholds are relative to a percentile of the map instead of its maximum.
        eigen: the first principal component of the weighted channels.
        aug: the average over six views.
    """

    method: str
    tap: bool = False
    clamp: bool = False
    pas: bool = False
    eigen: bool = False
    aug: bool = False

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `method[+tap][+clamp][+pas][+eigen][+aug]`, suffixes in any order; "gradcam++aug" is "gradcam+++aug".

        Raises ValueError for an unknown method or suffix, one that comes twice, or "+clamp" without CAM.
        """
        known = [m for m in methods.BOX_METHODS if name == m or name.startswith(m if m.endswith("+") else f"{m}+")]
        if not known:
            if (method := name.split("+")[0]) in methods.ATTRIBUTIONS:
                raise ValueError(f"{name!r}: {method} gives no map of a class that boxes could be taken from")
            raise ValueError(f"{name!r}: unknown method{suggest(name, list(methods.BOX_METHODS))}")
        method = max(known, key=len)  # "gradcam++" begins with "gradcam+"
        suffixes = name[len(method) :].removeprefix("+").split("+") if name != method else []
        for suffix in suffixes:
            if suffix not in _SUFFIXES:
                raise ValueError(f"{name!r}: unknown +{suffix}; a row is {method}[+{'][+'.join(_SUFFIXES)}]")
            if suffixes.count(suffix) > 1:
                raise ValueError(f"{name!r}: +{suffix} comes twice")
        if "clamp" in suffixes and method != "cam":
            raise ValueError(f"{name!r}: +clamp is for cam, whose weights are the classifier's")
        return cls(method, **dict.fromkeys(suffixes, True))

    @property
    def name(self) -> str:
        """What `parse` reads, in a fixed order."""
        return "+".join([self.method, *(suffix for suffix in _SUFFIXES if getattr(self, suffix))])

    @property
    def map(self) -> Self:
        """The variant whose map this one has, too: with "+pas" measuring differs, but not the map."""
        return self._replace(pas=False)

    def settings(self, target_layers: Any) -> MapSettings:
        """How its maps are made; the pooling is exchanged in the run that all share."""
        smooth = tuple(name for name in ("aug", "eigen") if getattr(self, name))
        layers = target_layers if self.method in methods.METHODS else None  # saliency is of the pictures themselves
        return MapSettings(self.method, layers, clamp=self.clamp, smooth=smooth)


class SharedMaps:
    """Makes the maps of several variants from shared runs of the network, and measures how long each part takes.

    Attributes:
        sources: by variant, without "+pas", which changes how a map is measured, but not the map.
        seconds: by variant what is its own, by name what is shared.
        shares: for each variant the names of the shared parts that it needs.
    """

    def __init__(
        self,
        data: Collection,
        model: nn.Module,
        config: ModelConfig | None,
        protocol: Protocol,
        variants: Iterable[Variant],
        target_layers: Any,
    ) -> None:
        self.sources = {
            variant: NetworkMaps(data, model, config, protocol, variant.settings(target_layers))
            for variant in dict.fromkeys(variant.map for variant in variants)
        }
        self._device = next(model.parameters(), torch.empty(0)).device
        self._pooled = [methods.CAM(model)] if any(variant.tap for variant in self.sources) else []
        self.seconds: dict[Variant | str, float] = {}
        self.shares: dict[Variant, tuple[str, ...]] = {}

    @property
    def reader(self) -> NetworkMaps:
        """The source that reads the pictures for all."""
        return next(iter(self.sources.values()))

    def batches(self, loaded: Sequence[Loaded[np.ndarray]]) -> Iterator[tuple[Variant, Maps]]:
        """The maps of a batch, at least one picture, variant by variant."""
        images, labels = self.reader.images(loaded)
        for aug in (False, True):
            cams = [source.cam for variant, source in self.sources.items() if variant.aug == aug]
            if not cams:
                continue
            views = ", six views" if aug else ""
            with self._clock(part := f"forward pass{views}"):
                run = methods.observe([*cams, *self._pooled], images, labels, aug_smooth=aug)
            self.reader.check(run)
            yield from self._of_run(loaded, run, aug, False, (part,), views)
            if any(variant.tap and variant.aug == aug for variant in self.sources):
                with self._clock(other := f"TAP{views}"):
                    run = run.with_pooling(ThresholdedAvgPool2d())
                yield from self._of_run(loaded, run, aug, True, (part, other), f", TAP{views}")

    def _of_run(
        self, loaded: Sequence[Loaded[np.ndarray]], run: Forward, aug: bool, tap: bool, shares: tuple[str, ...], of: str
    ) -> Iterator[tuple[Variant, Maps]]:
        sources = {key: source for key, source in self.sources.items() if (key.aug, key.tap) == (aug, tap)}
        using = {key for key, source in sources.items() if source.cam.uses_gradients(run)}
        if using:
            with self._clock(f"gradients{of}"):
                run.differentiate()
        for variant, source in sources.items():
            self.shares[variant] = (*shares, f"gradients{of}") if variant in using else shares
            with self._clock(variant):
                maps = source.maps(loaded, run)
            yield variant, maps

    @contextlib.contextmanager
    def _clock(self, part: Variant | str) -> Iterator[None]:
        self._wait()
        begin = time.perf_counter()
        yield
        self._wait()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
