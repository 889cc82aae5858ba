"""Networks: built by name, their weights and checkpoints, the layers and heads that maps are taken from."""

from fastcam.models.checkpoints import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ModelConfig,
    load_checkpoint,
    load_tensors,
    load_weights,
    read_config,
    save_checkpoint,
    start_from,
)
from fastcam.models.heads import Head, ThresholdedAvgPool2d, find_head
from fastcam.models.layers import (
    default_target_layer,
    resolve_layers,
    suggest,
    swin_reshape,
    unwrap,
    vit_reshape,
)
from fastcam.models.layouts import Layouts
from fastcam.models.networks import GlobalPoolNet, build, nin, to_gap

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "GlobalPoolNet",
    "Head",
    "Layouts",
    "ModelConfig",
    "ThresholdedAvgPool2d",
    "build",
    "default_target_layer",
    "find_head",
    "load_checkpoint",
    "load_tensors",
    "load_weights",
    "nin",
    "read_config",
    "resolve_layers",
    "save_checkpoint",
    "start_from",
    "suggest",
    "swin_reshape",
    "to_gap",
    "unwrap",
    "vit_reshape",
]
