"""Several methods' maps on one network, from one forward pass for all of them."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from fastcam import methods
from fastcam._check import suggest
from fastcam.data import Collection
from fastcam.evaluation.protocols import Protocol
from fastcam.evaluation.settings import MapSettings
from fastcam.evaluation.sources.network import NetworkMaps
from fastcam.evaluation.sources.source import Loaded, Maps
from fastcam.methods.core import observe_scales
from fastcam.methods.forward import Forward
from fastcam.methods.scales import ScaledRun
from fastcam.models import ModelConfig, ThresholdedAvgPool2d

_SUFFIXES = ("tap", "clamp", "pas", "eigen", "aug", "ms")


class Variant(NamedTuple):
    """A method, and what is changed in it: a row of the table.

    Attributes:
        method: a key of `fastcam.methods.BOX_METHODS`.
        tap: thresholded average pooling instead of the network's own.
        clamp: negative weights count as zero in CAM's map.
        pas: thresholds are relative to a percentile of the map instead of its maximum.
        eigen: the first principal component of the weighted channels.
        aug: the average over six views.
        ms: the sum over several sizes, and mirror images.
    """

    method: str
    tap: bool = False
    clamp: bool = False
    pas: bool = False
    eigen: bool = False
    aug: bool = False
    ms: bool = False

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `method[+tap][+clamp][+pas][+eigen][+aug][+ms]`, in any order; "gradcam++aug" is "gradcam+++aug".

        Raises ValueError for an unknown method or suffix, one that comes twice, "+clamp" without CAM, or "+aug" and
        "+ms" together.
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
        if {"aug", "ms"} <= {*suffixes}:
            raise ValueError(f"{name!r}: +aug and +ms are two ways to use several views")
        return cls(method, **dict.fromkeys(suffixes, True))

    @property
    def name(self) -> str:
        """What `parse` reads, in a fixed order."""
        return "+".join([self.method, *(suffix for suffix in _SUFFIXES if getattr(self, suffix))])

    @property
    def map(self) -> Self:
        """The variant whose map this one has, too: with "+pas" measuring differs, but not the map."""
        return self._replace(pas=False)

    def settings(self, target_layers: Any, scales: tuple[float, ...], flip: bool) -> MapSettings:
        """How its maps are made; the pooling is exchanged in the run that all share."""
        smooth = tuple(name for name in ("aug", "eigen") if getattr(self, name))
        layers = target_layers if self.method in methods.METHODS else None  # saliency is of the pictures themselves
        views: dict[str, Any] = {"scales": scales, "flip": flip} if self.ms else {}
        return MapSettings(self.method, layers, clamp=self.clamp, smooth=smooth, **views)


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
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
    ) -> None:
        self.sources = {
            variant: NetworkMaps(data, model, config, protocol, variant.settings(target_layers, scales, flip))
            for variant in dict.fromkeys(variant.map for variant in variants)
        }
        self._scales, self._flip = scales, flip
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
            sources = {key: source for key, source in self.sources.items() if not key.ms and key.aug == aug}
            if not sources:
                continue
            of = ", six views" if aug else ""
            cams = [source.cam for source in sources.values()]
            with self._clock(part := f"forward pass{of}"):
                run = methods.observe([*cams, *self._pooled], images, labels, aug_smooth=aug)
            self.reader.check(run)
            for variant, seen in self._seen(sources, run, part, of):
                with self._clock(variant):
                    maps = sources[variant].maps(loaded, seen)
                yield variant, maps
        yield from self._summed(loaded, images, labels)

    def _summed(
        self, loaded: Sequence[Loaded[np.ndarray]], images: Tensor, labels: Tensor | None
    ) -> Iterator[tuple[Variant, Maps]]:
        """The maps of variants that are summed over several sizes, of which one is run after the other for all."""
        sources = {key: source for key, source in self.sources.items() if key.ms}
        if not sources:
            return
        of = f", {len(self._scales) * (1 + self._flip)} views"
        runs = {tap: ScaledRun(images.shape[-2:], self._scales, self._flip) for tap in (False, True)}
        cams = [*(source.cam for source in sources.values()), *self._pooled]
        passes = observe_scales(cams, images, labels, scales=self._scales, flip=self._flip)
        while True:
            with self._clock(part := f"forward pass{of}"):
                scale, run = next(passes, (None, None))
            if scale is None or run is None:
                break
            self.reader.check(run)
            for variant, seen in self._seen(sources, run, part, of):
                with self._clock(variant):
                    runs[variant.tap].begin(scale, seen)
                    runs[variant.tap].add(sources[variant].cam, seen, sources[variant].eigen)
                del seen
            del run
        for variant, source in sources.items():
            with self._clock(variant):
                maps = source.maps(loaded, runs[variant.tap])
            yield variant, maps

    def _seen(
        self, sources: Mapping[Variant, NetworkMaps], run: Forward, part: str, of: str
    ) -> Iterator[tuple[Variant, Forward]]:
        """A run as each variant sees it, with its pooling, and with the gradients that all with that pooling share."""
        for tap in (False, True):
            own = {key: source for key, source in sources.items() if key.tap == tap}
            if not own:
                continue
            shares: tuple[str, ...] = (part,)
            if tap:
                of = f", TAP{of}"
                with self._clock(other := of.removeprefix(", ")):
                    run = run.with_pooling(ThresholdedAvgPool2d())
                shares = (part, other)
            using = {key for key, source in own.items() if source.cam.uses_gradients(run)}
            if using:
                with self._clock(f"gradients{of}"):
                    run.differentiate()
            for variant in own:
                self.shares[variant] = (*shares, f"gradients{of}") if variant in using else shares
                yield variant, run

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
