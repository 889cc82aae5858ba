"""Methods that need activations only: class activation mapping."""

from torch import Tensor

from fastcam.methods.core import Method, WeightedSum
from fastcam.methods.forward import Forward


class CAM(Method):
    """Class activation mapping: the last feature maps, weighted by the class's row of the linear layer.

    CAM_c = Σ_k W[c, k]·A_k, for networks that end in global average pooling and one linear layer (ResNet, DenseNet,
    GoogLeNet, MobileNetV2…). Its mean plus the bias is the logit: the map says where the score comes from. That
    identity is checked on every call, and networks where it does not hold are refused. No ReLU by default, as in
    the paper. Where a ReLU stands between target layer and pooling (DenseNet), the features are taken after it.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, equations 1 and 2.

    Example:
        >>> with fastcam.CAM(model) as cam:
        ...     maps = cam(images)  # [N, H, W] in [0, 1]
    """

    relu = False

    def _layer_maps(self, forward: Forward) -> list[WeightedSum | Tensor]:
        classes = forward.targets.classes
        if classes is None:
            raise TypeError("CAM explains classes: `targets` must be class indices, got callables; GradCAM takes them")
        terms = []
        for index, (name, features) in enumerate(zip(self.layers, forward.features, strict=True)):
            head = forward.head(index)
            if head is None:
                raise ValueError(
                    f"CAM needs global average pooling and one linear layer after the target layer {name!r}, but in "
                    f"{type(self.model).__name__} {_obstacle(features, forward)}. GradCAM works on any network: "
                    f"GradCAM(model, target_layers=[{name!r}])"
                )
            terms.append(WeightedSum(features.relu() if head.relu else features, head.weight[classes]))
        return terms


def _obstacle(features: Tensor, forward: Forward) -> str:
    if forward.linear is None or forward.pooled is None:
        return "the logits are not the output of a linear layer"
    if forward.pooled.shape != features.shape[:2]:
        return (
            f"the last linear layer is given {list(forward.pooled.shape)}, where the pooled target layer would be "
            f"{list(features.shape[:2])}"
        )
    return "the last linear layer is not given the mean of each channel"
