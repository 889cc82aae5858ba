// The one list of fastcam's operators. Shapes, defaults and errors are documented in fastcam/ops.py, which is their
// only caller; each backend registers its own implementations beside its kernels.
#include "cpu/dispatch.h"
#include "torch.h"

// clang-format off: one line each
STABLE_TORCH_LIBRARY(fastcam, m) {
  m.def("class_map(Tensor features, Tensor weights) -> Tensor");
  m.def("gradient_map(Tensor features, Tensor gradients, str weighting, float eps) -> Tensor");
  m.def("heatmap(Tensor coarse, int height, int width, bool relu, str normalize, str mode, bool as_bytes) -> Tensor");
  m.def("boxes(Tensor coarse, Tensor? levels, float[] thresholds, int height, int width, bool relu, str mode, int connectivity, str largest) -> Tensor");
  m.def("class_boxes(Tensor features, Tensor weights, Tensor? levels, float[] thresholds, int height, int width, bool relu, str mode, int connectivity, str largest) -> Tensor");
  m.def("class_boxes_and_maps(Tensor features, Tensor weights, Tensor? levels, float[] thresholds, int height, int width, bool relu, str mode, int connectivity, str largest, bool as_bytes) -> (Tensor boxes, Tensor maps)");
  m.def("components(Tensor masks, int connectivity, int? max_components, int min_area, bool fill_holes, bool labels) -> (Tensor boxes, Tensor areas, Tensor image, Tensor labels)");
  m.def("box_curves(Tensor maps) -> Tensor");
  m.def("iou_curves(Tensor maps, Tensor boxes, Tensor starts, bool all_contours) -> Tensor");
  m.def("score_histograms(Tensor maps, Tensor masks, int bins) -> Tensor");
  m.def("refine(Tensor maps, Tensor images, int[] dilations, int iterations) -> Tensor");
  m.def("resize(Tensor picture, int height, int width, int top, int left, int rows, int columns, bool columns_first) -> Tensor");
  m.def("simd() -> str");
  m.def("build() -> str");
}
// clang-format on

namespace {
std::string simd() { return fastcam::kernels().name; }
std::string build() { return FASTCAM_BUILD; }  // what setup.py found: "cuda: ..." or "cpu: ..." and the reason
}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastcam, CompositeExplicitAutograd, m) {
  m.impl("simd", TORCH_BOX(&simd));
  m.impl("build", TORCH_BOX(&build));
}
