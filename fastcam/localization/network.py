"""Batches of pictures through the network, to rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam import drawing, methods
from fastcam._files import replacing
from fastcam.localization.plan import Findings
from fastcam.localization.run_settings import RunSettings, make_method
from fastcam.localization.settings import PAPER_TIGHT
from fastcam.methods.core import Method
from fastcam.methods.frozen import FreezeError
from fastcam.methods.running import MixedPicturesError, check_rows, evaluation_mode, out_of_memory
from fastcam.methods.scores import Outputs, check_names, probabilities, recognise
from fastcam.methods.targets import resolve_targets
from fastcam.models import unwrap
from fastcam.models.outputs import caller, output_of, per_class, read as read_output
from fastcam.models.ranking import ranks_of
from fastcam.pictures import DecodeError, Encoded, Geometry, gpu, read
from fastcam.runs.folder import OVERLAY_COMMENT, RunFolder
from fastcam.runs.maps import scaled
from fastcam.runs.schema import Row


class Drawn(NamedTuple):
    """What an overlay is drawn on: uint8 [h, w, 3], and true boxes [B, 4] as fractions of width and height."""

    thumbnail: np.ndarray
    truth: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture made ready for the network. One that failed is its row at once.

    Attributes:
        index: its place among all inputs.
        key: its id.
        frame: [size, size, C], see `fastcam.pictures.Preprocess.frame`; or a JPEG that the network's GPU is to decode.
        geometry: from the frame to the picture.
        orientation: as it was stored, see `fastcam.pictures.Decoded`.
        decoder: who decoded it.
        targets: classes asked for, each once; None where they are the highest.
        drawn: where an overlay is wanted.
    """

    index: int
    key: str
    frame: np.ndarray | Tensor | Encoded
    geometry: Geometry
    orientation: int | None = None
    decoder: str | None = None
    targets: tuple[int, ...] | None = None
    drawn: Drawn | None = None

    def failed(self, error: str) -> Row:
        """The row of a picture that failed, with "code: reason"."""
        return failed(self.key, error, self.orientation, self.decoder, self.geometry.original)


def failed(
    key: str,
    error: str,
    orientation: int | None = None,
    decoder: str | None = None,
    size: tuple[int | None, int | None] = (None, None),
) -> Row:
    """The row of a picture that failed, with "code: reason" and what is known of it."""
    return Row(key, *size, status="error", error=error, orientation=orientation, decoder=decoder)


class Inference:
    """A network and a method, as the settings of a plan have them. Used in a `with` block, which puts the model back.

    Args:
        model: the network, on its device.
        settings: of the plan.
        class_names: of its classes, () if unknown.
        files: the run's, for overlays.

    Raises:
        TypeError, ValueError: an option of the method is wrong, or the decoder is not for this machine.
    """

    def __init__(self, model: nn.Module, settings: RunSettings, class_names: tuple[str, ...], files: RunFolder) -> None:
        self.settings, self.class_names, self.files, self.model = settings, class_names, files, model
        self.preprocess = settings.preprocess
        self.cam = make_method(model, settings.options, settings.target_layers)
        self.num_classes = settings.num_classes
        self.like = next(model.parameters(), torch.empty(0))
        if settings.decoder == "nvjpeg":
            gpu.check(self.like.device)
        self.smallest_batch = settings.batch_size
        self.outputs: Outputs | None = None
        self._rows_checked = False
        mode = settings.options.compile
        self.how: str | None = None
        self._compiled = None if mode in (None, "freeze") else CompiledCAM(self.cam, mode)

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(self.settings.threads)
        if self.settings.options.channels_last:
            self._stack.enter_context(_channels_last(self.model))
        if self.settings.options.compile == "freeze":
            self._freeze()
        if self._compiled is not None:
            self._stack.enter_context(self._compiled)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def findings(self) -> Findings:
        """What is known of the network by now."""
        return Findings(self.smallest_batch, self.outputs, self.cam.grids, self.cam.cautions, self.how)

    def _freeze(self) -> None:
        """Freeze the network for batches of full size, or go on without: the same in every process of a run."""
        size, side = self.settings.batch_size, self.preprocess.size
        try:
            with self._precision():
                options = self.settings.options
                self.cam.freeze(
                    self.like.new_empty(size, self.preprocess.channels, side, side), options.scales, options.flip
                )
        except FreezeError as error:
            self.how = f"as it is written: it was not frozen, since {error}"
        else:
            assert self.cam.frozen is not None
            self.how = f"frozen in {self.cam.frozen.seconds:.1f} s"

    def rows(self, pictures: Sequence[Prepared | Row]) -> list[Row]:
        """Localize in the pictures of a batch, at most `batch_size`; rows of those that failed stay as they are.

        A batch of fewer pictures, or with such that failed, is filled up with black ones, so that the network always
        sees the same shape and every picture has the same place.

        Returns:
            Their rows, in order. If the network fails on a batch, but not on a black one, all pictures of the batch
            get the error as their row. If memory runs out, they are computed in halves, and so are all that follow.

        Raises:
            RuntimeError, ValueError: the network fails on a black batch as well, or mixes the pictures of a batch.
        """
        batch = [self._checked(picture) for picture in pictures]
        if all(isinstance(picture, Row) for picture in batch):
            return [picture for picture in batch if isinstance(picture, Row)]
        size, found, known = self.smallest_batch, list[Row](), self.num_classes
        try:
            for at in range(0, len(batch), size):
                batch[at : at + size] = self._decoded(batch[at : at + size])
                found += self._localize(batch[at : at + size], size)
            return found
        except MixedPicturesError:
            raise
        except (RuntimeError, ValueError) as error:
            memory = out_of_memory(error)
            if memory and size > 1:
                self.smallest_batch = -(-size // 2)
            elif not self._sound():
                raise
            elif memory or known is not None:
                code = "memory" if memory else "model"
                reason = f"{code}: {next(iter(str(error).splitlines()), type(error).__name__)}"
                return [picture if isinstance(picture, Row) else picture.failed(reason) for picture in batch]
            # Else the black picture has told how many classes there are, and the batch may have asked for others.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.rows(batch)

    def _sound(self) -> bool:
        """Whether the network works on a black picture; then a failure is the batch's, not the set-up's."""
        side = self.preprocess.size
        black = Prepared(0, "", self.preprocess.blank(1)[0], Geometry((side, side), (side, side)), targets=(0,))
        try:
            self._localize([black], self.smallest_batch)
        except (RuntimeError, ValueError):
            return False
        return True

    def _checked(self, picture: Prepared | Row) -> Prepared | Row:
        if isinstance(picture, Row) or picture.targets is None:
            return picture
        count = self.num_classes
        wrong = next((c for c in picture.targets if c < 0 or (count is not None and c >= count)), None)
        if wrong is None:
            return picture
        return picture.failed(f"no_target: class {wrong} is none of the model's {count or ''}".rstrip())

    def _decoded(self, batch: list[Prepared | Row]) -> list[Prepared | Row]:
        """Decode what was left to the GPU, and what fails there on the CPU."""
        waiting = [
            (i, picture, picture.frame)
            for i, picture in enumerate(batch)
            if isinstance(picture, Prepared) and isinstance(picture.frame, Encoded)
        ]
        if waiting:
            found = gpu.frames([encoded for _, _, encoded in waiting], self.preprocess, self.like.device)
            for (i, picture, encoded), frame in zip(waiting, found, strict=True):
                on_gpu = None if frame is None else replace(picture, frame=frame, decoder="nvjpeg")
                batch[i] = on_gpu or self._on_cpu(picture, encoded)
        return batch

    def _on_cpu(self, picture: Prepared, encoded: Encoded) -> Prepared | Row:
        try:
            found = read(encoded.data)
            assert not isinstance(found.pixels, Encoded)  # which only `read_encoded` gives
            frame, geometry = self.preprocess.frame(found.pixels)
        except DecodeError as error:
            return failed(picture.key, str(error))
        return replace(picture, frame=frame, geometry=geometry, decoder=found.decoder)

    def _localize(self, batch: Sequence[Prepared | Row], size: int) -> list[Row]:
        options, top_k, frames = self.settings.options, self.settings.top_k, self.preprocess.blank(size)
        given = [picture.targets or (0,) if isinstance(picture, Prepared) else (0,) for picture in batch]
        given += [(0,)] * (size - len(batch))
        most = max(map(len, given))
        # A picture of fewer classes has its first once more: maps of it, which make no rows, cost no backward pass.
        targets = np.array([(*classes, *classes[:1] * (most - len(classes))) for classes in given], np.int64)
        for i, picture in enumerate(batch):
            if isinstance(picture, Prepared) and isinstance(picture.frame, np.ndarray):
                frames[i] = picture.frame
        pixels = torch.from_numpy(frames).to(self.like.device)
        for i, picture in enumerate(batch):
            if isinstance(picture, Prepared) and isinstance(picture.frame, Tensor):
                pixels[i] = picture.frame
        images = self.preprocess.normalize(pixels).to(self.like.dtype)
        if options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        chosen = None if top_k else torch.from_numpy(targets).to(images.device)
        with self._precision():
            run = self._run(images, chosen, top_k)
            if not self._rows_checked:  # others of the batch may be black filler, which is to decide about nobody's row
                check_rows(self.model, run.images, run.logits)
                self._rows_checked = True
            if self.outputs is None:
                plain = run.linear() and run.logits.shape[1] > 1
                self.outputs = recognise(self.model, images, self.settings.scores, plain=plain)
        if options.refine is not None:
            run = self._refined(run, pixels)
        check_names(self.class_names, run.logits.shape[1])
        logits, classes = run.logits.float(), run.classes
        self.num_classes = logits.shape[1]
        if top_k:
            ranks = torch.arange(1, classes.shape[1] + 1, device=classes.device).expand_as(classes)
        else:
            ranks = ranks_of(logits, classes)
        scores = probabilities(logits, self.outputs).gather(1, classes)
        found = self._components(run) if options.boxes == "all" else self._largest(run)
        cams = scaled(run.coarse().double().cpu().numpy()) if options.maps else None

        finite = logits.isfinite().all(1).tolist()
        columns = ranks.tolist(), classes.tolist(), scores.tolist(), found
        drawn = run.maps()[:, 0] if any(isinstance(picture, Prepared) and picture.drawn for picture in batch) else None
        rows: list[Row] = []
        for i, picture in enumerate(batch):
            if isinstance(picture, Row) or not finite[i]:
                rows.append(picture if isinstance(picture, Row) else picture.failed("model: its logits are not finite"))
                continue
            own, first = list(enumerate(zip(*(column[i] for column in columns), strict=True))), 0
            if not top_k:  # those that were given, from the highest down
                own = sorted(own[: len(given[i])], key=lambda one: one[1][0])
            for k, (rank, c, score, (corners, peaks)) in own:
                first = len(rows) if k == 0 else first
                boxes = picture.geometry.to_original(corners).tolist()
                for number, ((x0, y0, x1, y1), peak) in enumerate(zip(boxes, peaks, strict=True), 1):
                    cam = None if cams is None or number > 1 else cams[i, k]
                    rows.append(
                        Row(
                            image_id=picture.key,
                            width=picture.geometry.original[0],
                            height=picture.geometry.original[1],
                            rank=rank,
                            class_id=c,
                            class_name=self.class_names[c] if self.class_names else None,
                            score=score,
                            x0=x0,
                            y0=y0,
                            x1=x1,
                            y1=y1,
                            box=number,
                            box_score=score * peak,
                            orientation=picture.orientation,
                            decoder=picture.decoder,
                            cam=None if cam is None else cam.tobytes(),
                            cam_height=None if cam is None else cam.shape[0],
                            cam_width=None if cam is None else cam.shape[1],
                        )
                    )
            if picture.drawn is not None and drawn is not None:
                self._draw(picture, picture.drawn, drawn[i], rows[first])
        return rows

    def _precision(self) -> torch.autocast:
        half = self.settings.options.precision == "bfloat16"
        return torch.autocast(self.like.device.type, torch.bfloat16, enabled=half)

    def _run(self, images: Tensor, chosen: Tensor | None, top_k: int | None) -> "Pass":
        if self._compiled is not None:
            return self._compiled(images, chosen, top_k)
        return observed(self.cam, images, chosen, top_k, self.settings.options.scales, self.settings.options.flip)

    def _refined(self, run: "Pass", pixels: Tensor) -> "Pass":
        """The same with its full-size maps refined by the frames, [N, H, W, C], and brought to [0, 1] again."""
        ops, size = self.cam.ops, pixels.shape[1:3]
        maps = ops.refine(run.maps(), pixels.permute(0, 3, 1, 2))
        return run._replace(
            boxes=lambda thresholds: ops.boxes(maps, size, thresholds, relu=False),
            maps=lambda: ops.heatmap(maps, size, relu=False, normalize="after"),
        )

    def _largest(self, run: "Pass") -> list[list[tuple[np.ndarray, list[float]]]]:
        """The largest box of each map, with 1 for the peak in it: the full-size maps never exist.

        Of the paper's boxes a tight one, too, for its classes; a constant map has neither, which is one row.
        """
        loose, tight = self.settings.threshold, self.settings.tight
        boxes = run.boxes([loose] if tight is None else [loose, tight]).cpu().numpy()  # [N, k, 1 or 2, 4]
        kept = [[b if k < PAPER_TIGHT and b.any() else b[:1] for k, b in enumerate(row)] for row in boxes]
        return [[(b, [1.0] * len(b)) for b in row] for row in kept]

    def _components(self, run: "Pass") -> list[list[tuple[np.ndarray, list[float]]]]:
        """The boxes of all components that are large enough, largest first, and of the largest in any case."""
        maps = run.maps()
        ranks, (height, width) = maps.shape[1], maps.shape[-2:]
        flat = maps.flatten(0, 1)
        masks = flat > torch.tensor(self.settings.threshold, dtype=torch.float32)
        boxes, areas, owners = (part.cpu().numpy() for part in self.cam.ops.components(masks))
        heights = flat.cpu().numpy()
        found = [[(np.zeros((1, 4), np.int32), [1.0])] * ranks for _ in maps]  # where there is none
        order = np.lexsort((-areas, owners))  # stable: the first in raster order where they tie
        for chosen in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
            if len(chosen):
                owner = owners[chosen[0]]
                large = areas[chosen] >= (self.settings.min_area or 0) * height * width
                large[0] = True
                kept = boxes[chosen[large]]
                peaks = [float(heights[owner, y0:y1, x0:x1].max()) for x0, y0, x1, y1 in kept]
                found[owner // ranks][owner % ranks] = kept, peaks
        return found

    def _draw(self, picture: Prepared, drawn: Drawn, map: Tensor, row: Row) -> None:
        height, width = drawn.thumbnail.shape[:2]
        scale = np.array([width, height] * 2) / np.array(picture.geometry.original * 2)
        panel = drawing.panel(
            drawn.thumbnail,
            picture.geometry.spread(map.cpu().numpy(), (width, height)),
            np.array([row.x0, row.y0, row.x1, row.y1]) * scale,
            () if drawn.truth is None else drawn.truth * ([width, height] * 2),
        )
        with replacing(self.files.overlay(picture.index, picture.key)) as path, path.open("wb") as file:
            Image.fromarray(panel).save(file, "JPEG", quality=90, comment=OVERLAY_COMMENT)


class Pass(NamedTuple):
    """What a forward pass gave.

    Attributes:
        images: [N, 3, h, w], those that gave the logits.
        logits: [N, C].
        classes: int64 [N, k], those that maps are of.
        boxes: from T thresholds to int32 [N, k, T, 4], in pixels of the images.
        maps: gives float32 [N, k, H, W] in [0, 1].
        coarse: gives [N, k, h, w], before ReLU and upsampling.
        linear: gives whether a linear layer or a pooling gave the logits, and nothing came after it.
    """

    images: Tensor
    logits: Tensor
    classes: Tensor
    boxes: Callable[[list[float]], Tensor]
    maps: Callable[[], Tensor]
    coarse: Callable[[], Tensor]
    linear: Callable[[], bool]


def observed(
    cam: Method,
    images: Tensor,
    targets: Tensor | None,
    top_k: int | None,
    scales: Sequence[float] = (),
    flip: bool = False,
) -> Pass:
    """Run a network for a method on prepared images [N, 3, H, W], for targets int64 [N, 1] or the `top_k` classes."""
    run = methods.observe([cam], images, targets, top_k, scales=scales, flip=flip)
    assert run.chosen.classes is not None
    return Pass(
        run.images,
        run.logits,
        run.chosen.classes,
        lambda thresholds: cam.boxes(run, threshold=thresholds),
        lambda: cam(run),
        lambda: cam.coarse(run),
        lambda: run.linear is not None,
    )


class CompiledCAM:
    """CAM with a network that `torch.compile` has compiled. Used in a `with` block.

    The first call begins with an observed pass on black images, which finds the linear layer whose weights CAM needs.
    After that the network is a compiled function from images to logits and features; the mode "reduce-overhead" replays
    it as a CUDA graph.

    Args:
        cam: the method, a `fastcam.CAM` of one layer.
        mode: of `torch.compile`: "default", "reduce-overhead" or "max-autotune".

    Raises:
        ValueError: another method, or several layers.
    """

    def __init__(self, cam: Method, mode: str) -> None:
        if type(cam) is not methods.CAM or len(cam.layers) > 1:
            raise ValueError("`compile` is for the method cam with one target layer")
        self.cam, self.mode = cam, mode
        ((self.name, self.layer),) = cam.layers.items()
        self._stack = ExitStack()
        self._network: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._network = None

    def __call__(self, images: Tensor, targets: Tensor | None, top_k: int | None) -> Pass:
        """As `observed`; the images always of one shape."""
        if self._network is None:
            forward = methods.observe([self.cam], torch.zeros_like(images), targets, top_k)
            self.cam.boxes(forward)  # refuses what is no CAM network, with the reason
            head = forward.at([self.name]).head(0)
            assert head is not None
            self._head, self._network = head, self._compile()
        with torch.no_grad():
            logits, features = (part.clone() for part in self._network(images))  # a graph's memory is used again
        classes = resolve_targets(targets, top_k, logits).classes
        assert classes is not None
        features = features.relu() if self._head.relu else features
        weights = self._head.weight[classes]
        ops, size, relu, mode = self.cam.ops, images.shape[-2:], self.cam.relu, self.cam.mode
        return Pass(
            images,
            logits,
            classes,
            lambda thresholds: ops.class_boxes(features, weights, size, threshold=thresholds, relu=relu, mode=mode),
            lambda: ops.heatmap(ops.class_map(features, weights), size, normalize="after", relu=relu, mode=mode),
            lambda: ops.class_map(features, weights),
            lambda: True,
        )

    def _compile(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        model, kept = unwrap(self.cam.model), []
        call, output = caller(model), output_of(self.cam.model)

        def keep(module: nn.Module, given: tuple, output: Tensor) -> None:
            kept.append(output.clone())  # a layer that works in place may follow

        def forward(images: Tensor) -> tuple[Tensor, Tensor]:
            kept.clear()
            logits = per_class(read_output(call(images), len(images), output))
            return logits, kept[0]

        self._stack.enter_context(evaluation_mode(model))
        self._stack.callback(self.layer.register_forward_hook(keep).remove)
        return torch.compile(forward, mode=self.mode, dynamic=False)


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
