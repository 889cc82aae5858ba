"""Networks of pictures and text (CLIP, SigLIP), as classifiers of pictures by texts.

An image tower gives each picture an embedding, a text tower each text; the logit of a class is the scaled cosine of the
two. Texts are embedded once, so that what classifies, and what a checkpoint holds, is the image tower and the texts'
embeddings. Nothing here reaches a network: weights and tokenizers are files.
"""

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam._check import listed, suggest
from fastcam.models import hub
from fastcam.models.outputs import caller, unwrap
from fastcam.models.states import SavedWeights, plain

if TYPE_CHECKING:
    from fastcam.models.preprocessing import Published

PROMPTS = ("a photo of a {}",)
_SCALE = 100.0  # which CLIP's training does not let temperatures exceed
_BATCH = 256  # texts at once
_OPEN_CLIP = "open_clip:"
_FOLDER = "open_clip_config.json"  # of a folder that open_clip calls a local dir
_WEIGHTS = ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_TOKENIZING = {"clean", "strip_sep_token", "language"}  # options of tokenizers that the package's configurations have
_BUFFERS = 2**24  # numbers that a network may have beside its weights, such as masks of attention


class ClipNet(nn.Module):
    """An image tower that classifies by texts: logit_c = scale · cos(tower(image), text_c) + bias.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, section
    3.1.2; with a bias, Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023, whose scores are sigmoids.

    Attributes:
        tower: images [N, 3, H, W] to embeddings [N, D].
        text_features: [C, D], of length 1.
        scale: of the cosine, a scalar: the inverse of the temperature.
        bias: of the logits, a scalar.
        about: what beside the name of the network a checkpoint needs to build the tower again, as JSON; or None.
    """

    text_features: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, tower: nn.Module, text_features: Tensor, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("text_features", text_features)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.about: str | None = None
        self.training = tower.training

    def forward(self, images: Tensor) -> Tensor:
        """Compare pictures with the texts.

        Args:
            images: [N, 3, H, W], floating.

        Returns:
            Logits [N, C].

        Raises:
            ValueError: the tower gives no embeddings as long as those of the texts, or takes no pictures of this size.
        """
        try:
            embeddings = _embeddings(caller(self.tower)(images))
        except RuntimeError as error:
            side = getattr(self.tower, "image_size", None)
            if side is None or tuple(images.shape[-2:]) == (side if isinstance(side, tuple) else (side, side)):
                raise
            raise ValueError(
                f"the image tower {type(self.tower).__name__} is for pictures of {side} pixels, got "
                f"{list(images.shape[-2:])}: {error}"
            ) from None
        if embeddings is None or embeddings.dim() != 2 or embeddings.shape[1] != self.text_features.shape[1]:
            got = "nothing that is one" if embeddings is None else str(list(embeddings.shape))
            raise ValueError(
                f"the image tower {type(self.tower).__name__} must give embeddings [{len(images)}, "
                f"{self.text_features.shape[1]}], as long as those of the texts, got {got}"
            )
        return self.scale * F.normalize(embeddings, dim=-1) @ self.text_features.T + self.bias

    def extra_repr(self) -> str:  # noqa: D102
        return f"classes={len(self.text_features)}"


class Projected(nn.Module):
    """The image tower of a network of Hugging Face's: what it pools, projected where it has a projection."""

    def __init__(self, vision_model: nn.Module, visual_projection: nn.Module) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = vision_model, visual_projection
        self.training = vision_model.training

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] to embeddings [N, D]."""
        return self.visual_projection(self.vision_model(pixel_values=images).pooler_output)


def clip(
    image_tower: nn.Module,
    text_features: Tensor,
    *,
    scale: float | Tensor | None = None,
    bias: float | Tensor | None = None,
) -> ClipNet:
    """Make a classifier by texts of an image tower and the texts' embeddings.

    Args:
        image_tower: images [N, 3, H, W] to embeddings [N, D]; or a whole network of open_clip's or of Hugging Face's
            (CLIPModel, SiglipModel, …), whose image tower, scale and bias are taken. It is shared, not copied.
        text_features: [C, D], floating, the embeddings of the texts, of any length; or those of several prompts for
            each class, [C, P, D]. See `fastcam.models.text_features`.
        scale: by what cosines are multiplied, the inverse of the temperature: `model.logit_scale.exp()`. None is the
            network's, or 100, CLIP's after training, for a tower alone.
        bias: what is added to all logits; None is the network's, or none. With one, as SigLIP has it, scores are the
            logits' sigmoids: say scores="sigmoid" where scores are asked for.

    Returns:
        The network, images to logits [N, C], in the tower's mode, dtype and place.

    Raises:
        TypeError: `text_features` are not floating [C, D] or [C, P, D].
        ValueError: there are none, or one has no direction.

    Example:
        >>> create = open_clip.create_model_and_transforms
        >>> model, _, preprocess = create("ViT-B-32", "laion2b_s34b_b79k")
        >>> tokenizer = open_clip.get_tokenizer("ViT-B-32")
        >>> texts = fastcam.models.text_features(model, tokenizer, ["cat", "dog"])
        >>> maps = fastcam.LeGrad(fastcam.models.clip(model, texts))(images, targets=0)
    """
    model: Any = unwrap(image_tower)
    tower = _image_tower(model)
    if tower is not model and scale is None:
        scale = model.logit_scale.detach().exp()
    if tower is not model and bias is None and getattr(model, "logit_bias", None) is not None:
        bias = model.logit_bias.detach()
    texts = _ensembled(text_features)
    like = next((one for one in tower.parameters() if one.is_floating_point()), texts)
    values = [torch.as_tensor(default if value is None else value) for value, default in ((scale, _SCALE), (bias, 0.0))]
    made = [value.detach().reshape(()).to(like.device, like.dtype).clone() for value in values]
    return ClipNet(tower, texts.to(like.device, like.dtype), *made)


def text_features(
    model: nn.Module, tokenizer: Any, class_names: Sequence[str], prompts: Sequence[str] = PROMPTS
) -> Tensor:
    """Embed the texts of classes with a network's text tower.

    With several prompts a class's embedding is the mean of those of all its texts, each brought to length 1 before, and
    brought to length 1 again.

    Source: Radford et al., as in `ClipNet`, section 3.1.4, and their code for prompt ensembles.

    Args:
        model: of open_clip's, or of Hugging Face's with `get_text_features`.
        tokenizer: the network's: of open_clip's a function of texts to [T, length], Hugging Face's own.
        class_names: C names, none of them blank.
        prompts: each with {} where the name stands, such as "a photo of a {}".

    Returns:
        [C, D], rows of length 1, in the dtype and place of the network.

    Raises:
        ValueError: there are no names or prompts, a prompt has no {}, or a text is longer than the text tower takes.
        TypeError: the network has no text tower that is known.
    """
    _check_texts(class_names, prompts)
    texts = [prompt.replace("{}", name) for name in class_names for prompt in prompts]
    encode = _encoder(unwrap(model), tokenizer)
    with torch.no_grad(), _evaluating(model):
        rows = torch.cat([encode(texts[begin : begin + _BATCH]) for begin in range(0, len(texts), _BATCH)])
    return _ensembled(rows.unflatten(0, (len(class_names), len(prompts))))


def _check_texts(class_names: Sequence[str], prompts: Sequence[str]) -> None:
    if isinstance(class_names, str) or not class_names:
        raise ValueError(f"`class_names` must be the names of at least one class, got {class_names!r}")
    if blank := [index for index, name in enumerate(class_names) if not name.strip()]:
        raise ValueError(f"`class_names` must not be blank, which that of class {blank[0]} is")
    check_prompts(prompts)


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse prompts that say nothing of a class."""
    wrong = [one for one in prompts if not isinstance(one, str) or "{}" not in one]
    if isinstance(prompts, str) or not prompts or wrong:
        got = repr(wrong[0] if wrong and not isinstance(prompts, str) else prompts)
        raise ValueError(
            f"`prompts` must be texts with {{}} where the name of a class stands, such as 'a photo of a {{}}', got "
            f"{got}; for class names that are whole texts it is '{{}}'"
        )


def _ensembled(texts: Tensor) -> Tensor:
    """Embeddings of length 1, [C, D], of those of classes, [C, D], or of prompts, [C, P, D]."""
    texts = torch.as_tensor(texts).detach()
    if not texts.is_floating_point() or texts.dim() not in (2, 3):
        raise TypeError(
            f"`text_features` must be floating [C, D], or [C, P, D] of P prompts, got {texts.dtype} {list(texts.shape)}"
        )
    texts = texts if texts.dim() == 2 else F.normalize(texts, dim=-1).mean(1)
    if not texts.numel() or not texts.norm(dim=-1).gt(0).all():
        raise ValueError(
            f"`text_features` must be embeddings other than zero, got {list(texts.shape)}"
            + (" with one that is zero or not a number" if texts.numel() else "")
        )
    return F.normalize(texts, dim=-1)


def _embeddings(given: Any) -> Tensor | None:
    """The pictures' embeddings in what an image tower gives."""
    for name in ("image_embeds", "pooler_output"):
        if isinstance(found := getattr(given, name, None), Tensor):
            return found
    given = given[0] if isinstance(given, tuple | list) and given else given  # CoCa's: pooled, tokens
    return given if isinstance(given, Tensor) else None


def _image_tower(model: nn.Module) -> nn.Module:
    """The image tower of a network of two; any other as it is."""
    if not hasattr(model, "logit_scale"):
        return model
    if isinstance(visual := getattr(model, "visual", None), nn.Module):
        return visual
    if isinstance(vision := getattr(model, "vision_model", None), nn.Module):
        return Projected(vision, getattr(model, "visual_projection", None) or nn.Identity())
    return model


def _encoder(model: Any, tokenizer: Any) -> Callable[[list[str]], Tensor]:
    """Embeds texts: a list of T to [T, D]."""
    if hasattr(model, "encode_text"):
        place = next(model.parameters()).device

        def encode(texts: list[str]) -> Tensor:
            _check_lengths(texts, lambda text: _length(tokenizer, text), getattr(tokenizer, "context_length", None))
            return model.encode_text(tokenizer(texts).to(place))

    elif hasattr(model, "get_text_features"):
        place = next(model.parameters()).device
        most = model.config.text_config.max_position_embeddings

        def encode(texts: list[str]) -> Tensor:
            _check_lengths(texts, lambda text: len(tokenizer(text)["input_ids"]), most)
            # As SigLIP is trained; CLIP looks at no token behind the last of a text.
            given = tokenizer(texts, padding="max_length", max_length=most, truncation=True, return_tensors="pt")
            found = model.get_text_features(**given.to(place))
            return found if isinstance(found, Tensor) else found.pooler_output

    else:
        raise TypeError(
            f"{type(model).__name__} has no text tower that is known: neither `encode_text`, as open_clip's networks, "
            "nor `get_text_features`, as Hugging Face's; embed texts yourself, and give them to `clip`"
        )
    return encode


def _length(tokenizer: Any, text: str) -> int:
    """How many tokens a text has for a tokenizer of open_clip's."""
    if hasattr(tokenizer, "tokenizer"):
        return len(tokenizer.tokenizer(text)["input_ids"])
    return len(tokenizer.encode(text)) + 2 if hasattr(tokenizer, "encode") else 0


def _check_lengths(texts: list[str], length: Callable[[str], int], most: int | None) -> None:
    """Refuse what tokenizers would cut off silently."""
    for text in texts:
        if most is not None and (count := length(text)) > most:
            raise ValueError(f"the text {text[:60]!r}… has {count} tokens, of which the text tower takes {most}")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """While entered, the network is in evaluation mode."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


# ---- by name ---------------------------------------------------------------------------------------------------------


class TwoTowers(NamedTuple):
    """A network of pictures and text with its weights."""

    model: nn.Module
    tokenizer: Any
    about: str | None  # as in `ClipNet`


def compares_texts(arch: str | None) -> bool:
    """Whether a name is that of a network of pictures and text."""
    if arch is None:
        return False
    folder = hub.folder_of(arch)
    return arch.startswith(_OPEN_CLIP) if folder is None else hub.has_texts(folder)


def _local(arch: str) -> Path | None:
    """The folder that open_clip:FOLDER names; None for names that open_clip knows."""
    name = arch.removeprefix(_OPEN_CLIP)
    path = Path(name)
    return path if name != arch and name and path.is_dir() and (path / _FOLDER).is_file() else None


class _Described(NamedTuple):
    """What open_clip's configurations say of a network."""

    name: str
    model: dict[str, Any]
    preprocess: Mapping[str, Any]
    folder: Path | None


def _described(arch: str) -> _Described:
    """Look a network of open_clip's up: NAME, NAME.TAG, or a folder."""
    open_clip = _open_clip(arch)
    name = arch.removeprefix(_OPEN_CLIP)
    if (folder := _local(arch)) is not None:
        found = hub.read_json(folder / _FOLDER)
        model = found.get("model_cfg", found)
        if not isinstance(model, dict) or not all(isinstance(model.get(k), dict) for k in ("vision_cfg", "text_cfg")):
            raise ValueError(f"{folder / _FOLDER} must have model_cfg with vision_cfg and text_cfg")
        preprocess = found.get("preprocess_cfg", {})
        if not isinstance(preprocess, dict):
            raise ValueError(f"{folder / _FOLDER}: preprocess_cfg must be an object, got {type(preprocess).__name__}")
        return _Described(name, model, preprocess, folder)
    if "/" in name:
        raise FileNotFoundError(f"there is no {Path(name) / _FOLDER}: open_clip:FOLDER has it, with weights beside")
    base, _, tag = name.partition(".")
    known = open_clip.list_models()
    if base not in known:
        raise ValueError(f"unknown open_clip architecture {base!r}{suggest(base, known)}")
    tags = {one: open_clip.get_pretrained_cfg(base, one) for one in _tags(base)}
    if tag and tag not in tags:
        raise ValueError(f"open_clip has no weights {tag!r} of {base!r}{suggest(tag, list(tags))}")
    model = open_clip.get_model_config(base)
    preprocess = tags[tag] if tag else next(iter(tags.values()), {})
    if tag:
        model["quick_gelu"] = bool(preprocess.get("quick_gelu", False))  # which the weights are for
    return _Described(base, model, preprocess, None)


def open_clip_fields(arch: str) -> "Published":
    """What the weights of a network of open_clip's want of pictures."""
    found = _described(arch)
    open_clip = _open_clip(arch)
    fields, gelu = _of_preprocess(found), bool(found.model.get("quick_gelu", False))
    if found.folder is None and "." not in arch.removeprefix(_OPEN_CLIP):
        tags = {tag: open_clip.get_pretrained_cfg(found.name, tag) for tag in _tags(found.name)}
        other = [
            tag
            for tag, about in tags.items()
            if _of_preprocess(found._replace(preprocess=about)) != fields or bool(about.get("quick_gelu")) != gelu
        ]
        if other:
            hub.note(
                f"without a tag those of {arch} get pictures as {next(iter(tags))} wants them, and "
                f"{'QuickGELU' if gelu else 'GELU'}, but {listed(other)} want it otherwise; if they are one of these, "
                f"say which: {arch}.{other[0]}"
            )
    return fields


def _tags(name: str) -> list[str]:
    """Names of the weights that open_clip knows of a network."""
    return _open_clip(name).list_pretrained_tags_by_model(name)


def _of_preprocess(found: _Described) -> "Published":
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    settings = merge_preprocess_dict(PreprocessCfg(), found.preprocess)
    size = found.model["vision_cfg"].get("image_size", settings["size"])
    sides = {*size} if isinstance(size, list | tuple) else {size}
    if len(sides) > 1 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"open_clip's {found.name} is for pictures of {size} pixels, which are no square")
    (side,) = sides
    fields: Published = {"size": side, "mean": tuple(settings["mean"]), "std": tuple(settings["std"])}
    mode = settings["resize_mode"]
    if mode == "squash":
        fields["resize"] = "squash"
    else:
        if mode != "shortest":
            hub.note(f"resize_mode {mode!r} of open_clip's is taken for the centre of a shorter side of {side} pixels")
        fields["resize"], fields["resize_size"] = "crop", side
    hub.interpolate(fields, settings["interpolation"])
    return fields


def load_two_towers(arch: str, path: Path | None, read: Callable[[Path], SavedWeights]) -> TwoTowers:
    """Load a network of pictures and text; `read` reads a file of weights."""
    if (folder := hub.folder_of(arch)) is not None:
        if path is not None and path != folder:
            raise ValueError(f"the weights of {arch} lie in its folder, got {path} besides")
        return TwoTowers(hub.load_hf(folder, texts=True), hub.tokenizer_of(folder), None)
    found = _described(arch)
    _needs_no_network(found)
    weights = path or _weights_of(found)
    state = read(weights)
    model = _two(found, sum(value.numel() for value in state.tensors.values()))
    load_open_clip(model, state)
    return TwoTowers(model.eval(), _tokenizer(found, weights.parent), _about(found))


def _about(found: _Described) -> str:
    """What builds the image tower."""
    parts = {name: found.model[name] for name in ("embed_dim", "vision_cfg", "quick_gelu") if name in found.model}
    return json.dumps(parts, sort_keys=True)


def _weights_of(found: _Described) -> Path:
    if found.folder is None:
        raise ValueError(
            f"a file of weights must be given (--weights) for open_clip:{found.name}: none is downloaded; a folder "
            f"with {_FOLDER} (open_clip:FOLDER) has them beside"
        )
    for suffix in _SUFFIXES:
        for name in _WEIGHTS:
            if (path := found.folder / f"{name}{suffix}").is_file():
                return path
    raise FileNotFoundError(f"there are no weights in {found.folder}: a folder has them as {_WEIGHTS[0]}.safetensors")


def _needs_no_network(found: _Described) -> None:
    """Refuse what open_clip would download."""
    vision, text = found.model["vision_cfg"], found.model["text_cfg"]
    if text.get("hf_model_name"):
        raise ValueError(
            f"the text tower of open_clip's {found.name} is {text['hf_model_name']} of Hugging Face's, which open_clip "
            "would download: embed the texts where it can, and keep the network as a checkpoint: models.clip(model, "
            "models.text_features(…)), models.save_checkpoint"
        )
    _check_vision(vision, found.name)


def _check_vision(vision: Mapping[str, Any], name: str) -> None:
    if (trunk := vision.get("timm_model_name")) is not None:
        timm = hub.timm_library(f"the image tower of {name}")
        if str(trunk).partition(".")[0] not in timm.list_models():
            raise ValueError(f"the image tower of open_clip's {name} is {trunk!r}, which timm does not have")


def _tokenizer(found: _Described, beside: Path) -> Any:
    """The tokenizer of a network of open_clip's, from its package or from files beside the weights."""
    open_clip = _open_clip(found.name)
    text = found.model["text_cfg"]
    length = {"context_length": text.get("context_length", 77)}
    options, name = text.get("tokenizer_kwargs") or {}, text.get("hf_tokenizer_name")
    if odd := sorted({*options} - _TOKENIZING):  # others read files, or download
        raise ValueError(f"the tokenizer of open_clip's {found.name} has options that are not known: {odd}")
    if not name:
        try:
            return open_clip.SimpleTokenizer(**length, **options)
        except (TypeError, AssertionError) as error:
            raise ValueError(f"the tokenizer of open_clip's {found.name}: {hub.first(error)}") from None
    folder = found.folder or beside
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"the tokenizer of open_clip's {found.name} is {name} of Hugging Face's, which is not downloaded: put its "
            f"files, tokenizer.json and tokenizer_config.json, into {folder}"
        )
    hub.transformers_library()
    try:
        return open_clip.tokenizer.HFTokenizer(
            str(folder),
            **length,
            **options,
            tokenizer_mode=text.get("tokenizer_mode"),
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # of its libraries, in many ways
        raise ValueError(f"{folder}: its tokenizer cannot be loaded: {hub.first(error)}") from None


def _two(found: _Described, numbers: int) -> nn.Module:
    """Build a network of open_clip's with random weights, if a file of so many numbers can be its weights."""
    open_clip = _open_clip(found.name)
    config = copy.deepcopy(found.model)
    config["vision_cfg"]["timm_model_pretrained"] = False
    custom = config.pop("custom_text", False)
    kind = open_clip.CLIP if not custom else open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    return _within(lambda: kind(**config), [config["vision_cfg"], config["text_cfg"]], numbers, found.name)


def _within(build: Callable[[], nn.Module], parts: Sequence[Mapping[str, Any]], numbers: int, name: str) -> nn.Module:
    """Build what a configuration says, but nothing larger than its weights."""
    for part in parts:
        layers = part.get("layers", 0)
        for count in layers if isinstance(layers, list | tuple) else [layers]:
            if not isinstance(count, int) or count > numbers:
                raise ValueError(f"the weights of {name} have {numbers} numbers, its configuration {count!r} layers")
    try:
        with torch.device("meta"), _quiet():
            network = build()
        wanted = sum(parameter.numel() for parameter in network.parameters())
        if wanted > numbers or sum(buffer.numel() for buffer in network.buffers()) > numbers + _BUFFERS:
            raise ValueError(f"the weights have {numbers} numbers, the network {wanted} and buffers")
        with _quiet():
            return build()
    except Exception as error:  # a configuration may be anyone's
        raise ValueError(f"the network {name} of open_clip's cannot be built: {hub.first(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """While entered, libraries log nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def load_open_clip(model: nn.Module, state: SavedWeights) -> None:
    """Give a network of open_clip's the weights of a file, which may have older names or another library's."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    from fastcam.models.states import load_state

    tensors = {plain(name): value for name, value in state.tensors.items()}
    tensors = convert_state_dict(model, tensors)
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = convert_to_custom_text_state_dict(tensors)
    for name in ("logit_scale", "logit_bias"):
        if name in tensors and isinstance(own := getattr(model, name, None), Tensor):
            tensors[name] = tensors[name].reshape(own.shape)
    for name in ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids"):
        tensors.pop(name, None)
    load_state(model, state._replace(tensors=tensors))


def tower_text(model: nn.Module, arch: str) -> str | None:
    """What a checkpoint needs beside its name to build a `ClipNet`'s tower again; None for other networks.

    ValueError: no checkpoint can.
    """
    if not isinstance(model, ClipNet):
        return None
    if isinstance(model.tower, Projected) and (text := hub.config_text(model.tower.vision_model)) is not None:
        return text
    if arch.startswith(_OPEN_CLIP):
        return model.about or _about(_described(arch))
    raise ValueError(
        f"a checkpoint can build the image towers of open_clip's and Hugging Face's networks again, not "
        f"{type(model.tower).__name__} of {arch!r}: `arch` is open_clip:NAME for the first"
    )


def build_clip(text: str, shapes: Mapping[str, Sequence[int]], numbers: int) -> ClipNet:
    """Build a `ClipNet` for a checkpoint: of what `tower_text` gave, and of the shapes of its tensors."""
    try:
        config = json.loads(text)
        classes, width = shapes["text_features"]
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"the checkpoint of a network of pictures and text is incomplete: {error!r}") from None
    if not isinstance(config, dict):
        raise ValueError(f"the checkpoint's configuration of an image tower must be an object, got {config!r}")
    tower: nn.Module
    if "model_type" in config:
        pooled = shapes.get("tower.visual_projection.weight")
        vision = hub.build_tower_like(config, numbers)
        if pooled is not None and (len(pooled) != 2 or pooled[0] * pooled[1] > numbers):
            raise ValueError(f"the checkpoint's projection of pictures has a shape that cannot be: {list(pooled)}")
        projection = nn.Identity() if pooled is None else nn.Linear(pooled[1], pooled[0], bias=False)
        tower = Projected(vision, projection)
    else:
        _open_clip("open_clip")
        from open_clip.model import _build_vision_tower

        vision_cfg = config.get("vision_cfg")
        if not isinstance(vision_cfg, dict) or not isinstance(config.get("embed_dim"), int):
            raise ValueError("the checkpoint's configuration of an image tower lacks embed_dim or vision_cfg")
        _check_vision(vision_cfg, "the checkpoint")
        vision_cfg["timm_model_pretrained"] = False
        gelu = bool(config.get("quick_gelu", False))
        tower = _within(
            lambda: _build_vision_tower(config["embed_dim"], vision_cfg, gelu), [vision_cfg], numbers, "the checkpoint"
        )
    net = ClipNet(tower, torch.zeros(classes, width), torch.tensor(1.0), torch.tensor(0.0))
    net.about = None if isinstance(tower, Projected) else text
    return net


def _open_clip(name: str) -> Any:
    try:
        import open_clip
    except ImportError:
        raise ImportError(
            f"the network {name!r} is open_clip's, which is not installed: pip install open_clip_torch (or "
            "fastcam[clip])"
        ) from None
    return open_clip
