"""Weights in a file: where in it they are, and which of its names are which of a network's."""

import re
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fastcam._check import listed
from fastcam.models.outputs import unwrap

# What wrappers put into names, wherever they stand: DataParallel and DistributedDataParallel, torch.compile, FSDP and
# activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# No weights: BatchNorm's counter, which evaluation does not use and files from old versions of PyTorch lack,
# AveragedModel's, and what counters of operations leave behind.
_COUNTERS = {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
_AVERAGE = re.compile(r"(?i)ema|swa|avg|average|shadow")
# torchvision's published DenseNets have names from before PyTorch 0.4.
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_DEPTH = 4  # of dictionaries in dictionaries

Versions = dict[str, dict[str, Any]]


class SavedWeights(NamedTuple):
    """The weights in a file, by the file's names."""

    path: Path
    key: str  # of the dictionary that they are in, "" for the file itself
    tensors: dict[str, Tensor]
    versions: Versions  # of each module's names, by the module's name; what torch keeps as `_metadata`

    def __str__(self) -> str:
        return f"the weights in {self.path}" + (f" (under {self.key!r})" if self.key else "")


def plain(name: str) -> str:
    """A parameter's or module's name without what wrappers put into it: "module.features.module.0" is "features.0"."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def find_state(content: Any, path: Path) -> SavedWeights:
    """Find the weights in what a file holds: the one dictionary of tensors, at whatever key it is.

    Optimizers' states, and dictionaries without a tensor of two or more dimensions, are no weights. Of a network and
    moving averages of it, which have the same shapes, the network itself is taken, with a warning. ValueError: there
    are none, or others beside them.
    """
    found = dict(_dictionaries(content))
    held = {key: dict(item for item in each.items() if _is_tensor(*item)) for key, each in found.items()}
    weights = {key for key in held if any(value.dim() > 1 for value in held[key].values())}
    keys = [key for key in held if held[key] and (key in weights or not weights)]
    if not keys:
        parts = [f"{key} ({type(value).__name__})" for key, value in found[""].items()] if "" in found else []
        raise ValueError(
            f"{path} must hold a state_dict (names and tensors), on its own or under a key; "
            + (f"it holds {listed(parts, 12)}" if parts else f"it holds a {type(content).__name__}")
        )
    if len(keys) > 1:
        shapes = {key: Counter(value.shape for value in held[key].values() if value.dim()) for key in keys}
        alike = all(shapes[key] == shapes[keys[0]] for key in keys)
        keys = [_network(keys, f"{path} holds weights", alike)]
    return SavedWeights(path, keys[0], held[keys[0]], _versions(getattr(found[keys[0]], "_metadata", None)))


def _network(keys: list[str], what: str, alike: bool = True) -> str:
    """Of a network and its moving averages the network, with a warning."""
    own = [key for key in keys if not _AVERAGE.search(key)]
    if len(own) != 1 or not alike:
        listed = " and ".join(map(repr, keys))
        raise ValueError(f"{what} under {listed}: save the state_dict that is meant alone")
    others = ", ".join(repr(key) for key in keys if key != own[0])
    warnings.warn(f"{what} under {own[0]!r}, which are taken, and under {others}", stacklevel=5)
    return own[0]


def _dictionaries(content: Any) -> Iterator[tuple[str, Mapping]]:
    """Dictionaries in what a file holds, with the keys that lead to them; not those of optimizers."""
    level: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    for _ in range(_DEPTH):
        deeper: list[tuple[str, Any]] = []
        for key, each in level:
            if not isinstance(each, Mapping) or id(each) in seen or "param_groups" in each or "optim" in key:
                continue
            seen.add(id(each))
            yield key, each
            deeper += [(f"{key}.{name}" if key else str(name), value) for name, value in each.items()]
        level = deeper


def _is_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _versions(metadata: Any) -> Versions:
    """What is a version in the metadata of a file, which may hold anything."""
    return {
        name: {"version": values["version"]}
        for name, values in (metadata.items() if isinstance(metadata, Mapping) else ())
        if isinstance(name, str) and isinstance(values, Mapping) and isinstance(values.get("version"), int)
    }


def read_safetensors(path: Path) -> SavedWeights:
    """Read the weights of a safetensors file, which cannot hold versions of names. ValueError: it is none."""
    try:
        return SavedWeights(path, "", safetensors.torch.load_file(path), {})
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def load_state(model: nn.Module, state: SavedWeights) -> None:
    """Give a network the weights of a file, all of them or none.

    The file's names are the network's, but for what wrappers put in, for a beginning that all names of the network
    have in the file (such as "model." or "backbone."), and for what the modules, torchvision or timm rename because
    older versions had other names. Weights of parts that were switched off (GoogLeNet's auxiliary classifiers) are left
    out; a moving average of the network, and vectors and numbers of others such as a criterion, with a warning.
    ValueError: the names or shapes are not the network's, or several parts of the file are; they are listed.
    """
    model = unwrap(model)
    same = model.state_dict().keys() <= state.tensors.keys()  # whatever the network itself calls "module"
    own = {name if same else plain(name): name for name in model.state_dict()}
    names = {name if same else plain(name): name for name in state.tensors}
    if len(names) < len(state.tensors):
        twice = next(name for name in state.tensors if names[plain(name)] != name)
        raise ValueError(f"{state} have one name twice: {twice} and {names[plain(twice)]}")
    tensors = {name: state.tensors[names[name]] for name in names}

    fits: dict[str, dict[str, Tensor]] = {}
    failed: dict[str, dict[str, list[str]]] = {}
    votes = _beginnings(names, own)
    likely = max(votes, key=votes.__getitem__, default="")
    least = sum(1 for _ in model.parameters())
    for begin in dict.fromkeys(["", likely, *votes]):
        part = {own.get(name, name): value for name, value in _under(begin, tensors).items()}
        if begin not in ("", likely) and len(part) < least:
            continue
        fitting, failed[begin] = _fit(model, part, _below(begin, state.versions, model))
        if fitting is not None:
            fits[begin] = fitting
        if "" in fits:
            break
    if not fits:
        begin = likely
        # Names that the modules did not know are the file's.
        known = {own.get(name, name): names[begin + name] for name in _under(begin, tensors)}
        problems = {what: [known.get(name, name) for name in named] for what, named in failed[begin].items()}
        found = "; ".join(f"{len(named)} {what}: {listed(named)}" for what, named in problems.items() if named)
        raise ValueError(f"{state} do not fit {type(model).__name__}: {found}")
    begin = (
        next(iter(fits))
        if len(fits) == 1
        else _network(list(fits), f"{state} have {type(model).__name__} more than once,")
    )
    others = tuple(other for other in fits if other != begin)
    rest = {names[n]: v for n, v in tensors.items() if not (n.startswith(begin) or n.startswith(others))}
    rest = {name: value for name, value in rest.items() if name.split(".")[-1] not in _COUNTERS}
    if layers := [name for name, value in rest.items() if value.dim() > 1 and value.is_floating_point()]:
        raise ValueError(
            f"{state} are those of a larger network, of which {type(model).__name__} is the part {begin!r} only; "
            f"{len(layers)} others: {listed(layers)}"
        )
    if rest:
        warnings.warn(f"{state} that do not begin with {begin!r} are left out: {listed(list(rest))}", stacklevel=3)
    model.load_state_dict(fits[begin], strict=False)


def _beginnings(names: Mapping[str, str], own: Mapping[str, str]) -> Counter[str]:
    """What stands before names of the network in names of the file, and how often."""
    votes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for count in range(len(parts)):
            if ".".join(parts[count:]) in own:
                votes["".join(f"{part}." for part in parts[:count])] += 1
    return votes


def _under(begin: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(begin): value for name, value in values.items() if name.startswith(begin)}


def _below(begin: str, versions: Versions, model: nn.Module) -> Versions:
    """Versions by the network's names of its modules."""
    own = {plain(name): name for name, _ in model.named_modules()}
    below = {}
    for name, version in versions.items():
        whole = f"{plain(name)}."
        if whole.startswith(begin):
            name = whole[len(begin) :].rstrip(".")
            below[own.get(name, name)] = version
    return below


class _Versioned(OrderedDict[str, Tensor]):
    """Tensors by name, with the versions where torch looks for them."""

    _metadata: Versions


def _fit(
    model: nn.Module, tensors: dict[str, Tensor], versions: Versions
) -> tuple[dict[str, Tensor] | None, dict[str, list[str]]]:
    """What the network's `load_state_dict` takes completely, or None and what is wrong under the file's own names."""
    own: Versions = getattr(model.state_dict(), "_metadata", {})
    # Where the file has no versions: those of today, else the first ones.
    ways = [versions] * bool(versions) + [own, {name: {"version": 1} for name in own}]
    wrong: dict[str, list[str]] | None = None
    for named in _namings(model, tensors):
        for way in ways:
            problems = _problems(model, named, way)
            if not any(problems.values()):
                fitting = _Versioned(named)
                fitting._metadata = way
                return fitting, {}
            wrong = problems if wrong is None else wrong
    return None, wrong or {}


def _namings(model: nn.Module, tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """A state under its own names, and those that published files have elsewhere."""
    yield tensors
    renamed = {_DENSENET.sub(r"\1\2", name): value for name, value in tensors.items()}
    if renamed.keys() != tensors.keys():
        yield renamed
    home = type(model).__module__
    rename = getattr(sys.modules.get(home), "checkpoint_filter_fn", None) if home.startswith("timm.") else None
    if rename is not None:
        try:
            renamed = rename(dict(tensors), model)
            sizes = Counter(value.numel() for value in renamed.values())
        except Exception:  # for a file of another network it can raise anything
            return
        # It may give other names and shapes and leave out buffers, but not interpolate, nor take a part of a network.
        given = Counter(value.numel() for value in tensors.values())
        if sizes <= given and sum(sizes.elements()) > 0.95 * sum(given.elements()):
            yield renamed


def _problems(model: nn.Module, tensors: dict[str, Tensor], versions: Versions) -> dict[str, list[str]]:
    """What does not fit, by its kind, when the modules have renamed what they know under other names."""
    model, state = _twin(model, {}), dict(tensors)

    def visit(module: nn.Module, prefix: str) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            return
        about = {**versions.get(prefix[:-1], {}), "assign_to_params_buffers": True}  # nothing is copied
        module._load_from_state_dict(state, prefix, about, True, [], [], [])
        for name, child in module._modules.items():
            if child is not None:
                visit(child, f"{prefix}{name}.")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the loading itself will warn
            visit(model, "")
    except Exception as error:  # modules can be anyone's
        return {f"refused by its modules ({error})": list(tensors)}
    own = model.state_dict()
    state = {name: value for name, value in state.items() if getattr(model, name.split(".")[0], 0) is not None}
    pairs = [(name, own[name], value) for name, value in state.items() if isinstance(own.get(name), Tensor)]
    return {
        "missing": [name for name in own if name not in state and name.split(".")[-1] not in _COUNTERS],
        "unexpected": [name for name in state if name not in own and name.split(".")[-1] not in _COUNTERS],
        "of another shape": [
            f"{name} (expected {list(mine.shape)}, got {list(value.shape)})"
            for name, mine, value in pairs
            if mine.shape != value.shape
        ],
        "of another type": [  # quantised weights are more than their integers
            f"{name} (expected {mine.dtype}, got {value.dtype})"
            for name, mine, value in pairs
            if mine.is_floating_point() != value.is_floating_point()
        ],
    }


def _twin(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """A network of the same tensors; what becomes of its names and parts changes nothing in the given one."""
    if isinstance(module, torch.jit.ScriptModule):
        return module
    if id(module) not in made:
        made[id(module)] = twin = module.__new__(type(module))
        twin.__dict__ = dict(module.__dict__)
        twin.__dict__ |= {name: dict(module.__dict__[name]) for name in ("_parameters", "_buffers")}
        twin.__dict__["_modules"] = {
            name: None if child is None else _twin(child, made) for name, child in module._modules.items()
        }
    return made[id(module)]
