"""Methods that need activations only: class activation mapping and Eigen-CAM."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from fastcam.methods.core import CoarseMap, Method, MethodOptions, TargetLayers, WeightedSum
from fastcam.methods.forward import Forward
from fastcam.methods.smoothing import projection


class CAM(Method):
    """Class activation mapping: the last feature maps, weighted by the class's row of the linear layer.

    CAM_c = Σ_k W[c, k]·A_k, for networks that end in a global pooling and one linear layer (ResNet, DenseNet,
    GoogLeNet, MobileNetV2, `fastcam.models.to_gap`…), or in the pooling alone (Network in Network). After global
    average pooling the map's mean plus the bias is the logit: it shows where the score comes from. Maximum and
    thresholded average pooling give the same sum. Which pooling there is, is seen from the numbers of every call, and
    networks with another head are refused. No ReLU by default, as in the paper. Where a ReLU stands between target
    layer and pooling (DenseNet), the features are taken after it.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, equations 1 and 2; negative
    weight clamping from Bae et al., Rethinking Class Activation Mapping, ECCV 2020, section 3.2.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        clamp: count negative weights as zero, Σ_k max(W[c, k], 0)·A_k; in the map only, not in the logits.
        **options: as in `Method`.

    Example:
        >>> with fastcam.CAM(model) as cam:
        ...     maps = cam(images)  # [N, H, W] in [0, 1]
    """

    relu = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        clamp: bool = False,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        self.clamp = clamp

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        classes = forward.targets.classes
        if classes is None:
            raise TypeError("CAM explains classes: `targets` must be class indices, got callables; GradCAM takes them")
        terms: list[CoarseMap] = []
        for index, (name, features) in enumerate(zip(self.layers, forward.features, strict=True)):
            head = forward.head(index)
            if head is None:
                raise ValueError(
                    f"CAM needs global average pooling and one linear layer after the target layer {name!r}, but in "
                    f"{type(forward.model).__name__} {obstacle(features, forward)}. GradCAM works on any network: "
                    f"GradCAM(model, target_layers=[{name!r}])"
                )
            weight = head.weight.clamp(min=0) if self.clamp else head.weight
            terms.append(WeightedSum(features.relu() if head.relu else features, weight[classes]))
        return terms


def obstacle(features: Tensor, forward: Forward) -> str:
    """Why a run has no head of one pooling and one linear layer after these maps: the end of an error."""
    if forward.linear is None:
        if forward.last is None or forward.last.recomputed.shape != forward.logits.shape:
            return "the logits are not the output of a linear layer"
        return (
            "the logits are not the output of a linear layer: they are not what weight and bias of the last linear "
            f"layer ({type(forward.last.linear).__name__}) make of its input. It computes something else, or more "
            "follows: a softmax, say, without which the network is to be passed"
        )
    if forward.pooled.shape != features.shape[:2]:
        return (
            f"the last linear layer is given {list(forward.pooled.shape)}, where the pooled target layer would be "
            f"{list(features.shape[:2])}"
        )
    return "the last linear layer is not given the mean of each channel, nor its maximum or thresholded mean"


class EigenCAM(Method):
    """Eigen-CAM: the first principal component of the activations.

    The position-by-channel matrix, centred for each channel, projected on its first right singular vector. It shows
    what stands out, whatever the class: all targets give the same map. For any layer of any network, also of one that
    gives no scores; one forward pass. The sign, which is arbitrary, makes the largest value by magnitude positive.
    `eigen_smooth` changes nothing.

    Source: Muhammad and Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020, equation 4;
    centred as in the popular package.

    Example:
        >>> maps = fastcam.EigenCAM(model, target_layers=["layer4"])(images)
    """

    _needs_scores = False

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        return [
            projection(features)[:, None].expand(-1, forward.targets.ranks, -1, -1) for features in forward.features
        ]

    def _eigen_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        return self._layer_maps(forward)
