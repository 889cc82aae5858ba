"""Networks: built by name, their weights and checkpoints, the layers and heads that maps are taken from."""

from fastcam._check import IMAGENET_MEAN, IMAGENET_STD, check_normalization, suggest
from fastcam._options import Output
from fastcam.models import _torchvision  # noqa: F401  before all that needs it
from fastcam.models.checkpoints import (
    ModelConfig,
    Scores,
    load_checkpoint,
    load_network,
    load_tensors,
    load_weights,
    preprocessing_of,
    read_config,
    save_checkpoint,
    start_from,
)
from fastcam.models.clip import ClipNet, clip, text_features
from fastcam.models.heads import Head, ThresholdedAvgPool2d, find_head
from fastcam.models.layers import (
    attention_blocks,
    default_stages,
    default_target_layer,
    resolve_layers,
    swin_reshape,
    vit_reshape,
)
from fastcam.models.layouts import Layouts
from fastcam.models.networks import GlobalPoolNet, build, nin, split_arch, to_gap
from fastcam.models.outputs import run, unwrap, with_output
from fastcam.models.preprocessing import own_preprocessing, published

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ClipNet",
    "GlobalPoolNet",
    "Head",
    "Layouts",
    "ModelConfig",
    "Output",
    "Scores",
    "ThresholdedAvgPool2d",
    "attention_blocks",
    "build",
    "check_normalization",
    "clip",
    "default_stages",
    "default_target_layer",
    "find_head",
    "load_checkpoint",
    "load_network",
    "load_tensors",
    "load_weights",
    "nin",
    "own_preprocessing",
    "preprocessing_of",
    "published",
    "read_config",
    "resolve_layers",
    "run",
    "save_checkpoint",
    "split_arch",
    "start_from",
    "suggest",
    "swin_reshape",
    "text_features",
    "to_gap",
    "unwrap",
    "vit_reshape",
    "with_output",
]
