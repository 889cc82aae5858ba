"""The options of `explain`: its signature, checks, documentation and command are made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastcam._check import distinct_scales
from fastcam._options import Output, check, option


@dataclass(frozen=True)
class ExplainSettings:
    """What is drawn, and how."""

    methods: tuple[str, ...] = option(
        ("gradcam",),
        "one or several methods, keys of `fastcam.methods.BOX_METHODS` or `ATTRIBUTIONS`: gradcam, layercam, "
        "guided-backprop, …",
        flags="--method",
    )
    layers: tuple[str, ...] | None = option(
        None,
        "dotted names of target layers, whose maps are drawn beside each other; by default the model's last stage",
    )
    fuse: Literal["mean", "max"] | None = option(None, "make one map of all layers instead, by their mean or max")
    targets: tuple[int, ...] | None = option(
        None, "class indices to explain; by default the highest of each picture", cli=False
    )
    output: Output | None = option(
        None,
        "what of the network's output are the scores: a name, an index, or a function of all that it gives, see "
        "`fastcam.models.with_output`; by default that of `config`, or what needs no word",
        cli=False,
    )
    top_k: int = option(1, "without targets, this many classes of each picture, those of the highest scores", least=1)
    scores: Literal["softmax", "sigmoid"] | None = option(
        None,
        "how the probabilities beside classes are made of the network's logits; by default as the checkpoint says, "
        "else by softmax, and of a single logit by sigmoid",
    )
    smooth: tuple[Literal["aug", "eigen"], ...] = option(
        (),
        'any of "aug" (the average over six views of the picture) and "eigen" (the first principal component); for '
        "maps",
        metavar="aug,eigen",
    )
    scales: tuple[float, ...] = option(
        (),
        "sum the maps of each picture at several sizes, such as 0.5,1,1.5,2 times that of the network's input; each "
        "map is then divided by its maximum (`fastcam.methods.observe` has the formula); for maps",
    )
    flip: bool = option(False, "sum the maps of the mirror image, too, turned back; for maps")
    grid: bool = option(True, "write NAME_grid.png: classes in rows, methods and layers in columns", cli=False)
    panel: bool = option(False, "write NAME_panel.png: picture, map, and map over picture with boxes")
    num_results: int = option(
        0, "write imgN, camN and ResultN.png for this many of the first pictures", least=0, flags="--num-result"
    )
    stl10_blog: bool = option(
        False,
        "write NAME_stl10.png, as tutorials on CAM with STL-10 show it: the map as the layer has it, the map at the "
        "size of the network's input, and there, with the weights 0.3 and 0.5, map over picture",
    )
    boxes: tuple[Literal["largest", "all"], ...] | None = option(
        None,
        'boxes drawn over maps: "largest", that of the largest component above `threshold` of the map\'s range, in '
        'red; "all", those of every component above `component_threshold` of the maximum, in magenta. By default '
        '"largest" in panels and results, and none in grids',
        metavar="largest,all",
    )
    threshold: float | None = option(None, "in [0, 1); by default that of `config`, else 0.2", cli=False)
    component_threshold: float = option(0.6, "fraction of the map's maximum above which the boxes of `all` lie")
    blend: tuple[float, float] | None = option(
        None,
        "weights of colour-coded map and picture; by default 0.7 and 0.5 in grids and panels, else 0.3 and 0.5",
        metavar="MAP,PICTURE",
    )
    relu: bool | None = option(None, "clip the map at zero before it is upsampled; by default as the method has it")
    mode: Literal["bilinear", "bicubic"] = option("bilinear", "upsampling of maps")
    backend: Literal["fused", "reference"] = option("fused", "fused kernels, or reference for plain PyTorch")
    overwrite: bool = option(False, "replace existing files; by default that is an error")

    def __post_init__(self) -> None:
        kinds: dict[str, Callable[[Any], Any]] = {"targets": int, "blend": float}
        for name in ("methods", "layers", "targets", "smooth", "boxes", "blend"):
            values = getattr(self, name)
            if values is not None:  # any sequence will do, and for one method its name
                values = (values,) if isinstance(values, str) and name == "methods" else values
                object.__setattr__(self, name, tuple(map(kinds.get(name, str), values)))
        for name, number in (("threshold", self.threshold), ("component_threshold", self.component_threshold)):
            if number is not None and not 0 <= number < 1:
                raise ValueError(f"`{name}` must be at least 0 and less than 1, got {number!r}")
        chosen: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
            ("smooth", self.smooth, ("aug", "eigen")),
            ("boxes", self.boxes or (), ("largest", "all")),
        )
        for name, given, known in chosen:
            if wrong := [value for value in given if value not in known]:
                raise ValueError(f"`{name}` may have {' and '.join(known)}, got {wrong[0]!r}")
        object.__setattr__(self, "scales", distinct_scales(self.scales))
        check(self)
        if "aug" in self.smooth and (self.scales or self.flip):
            raise ValueError("aug and `scales` or `flip` are two ways to use several views: take one of them")
        if not (self.grid or self.panel or self.num_results or self.stl10_blog):
            raise ValueError("there is nothing to draw: ask for `grid`, `panel`, `num_results` or `stl10_blog`")
        if self.stl10_blog and (self.fuse or "aug" in self.smooth):
            raise ValueError("`stl10_blog` shows the map as one layer has it, which neither `fuse` nor aug leave")
