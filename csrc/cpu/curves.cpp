// CPU operators of curves: the standard evaluator's box, or best IoU, at every 8-bit level. Images are spread over
// threads; results are integers, and IoU made of integers, which no order can change.
#include <algorithm>

#include "../arguments.h"
#include "../iou.h"
#include "dispatch.h"

namespace fastcam {
namespace {

struct Work {
  Arena arena{true};
  Levels levels;
  Work(int64_t H, int64_t W, bool background) : levels(make_levels(arena, kernels(), H, W, background)) {}
};

// Sorts each map's pixels by level, then visit(levels, n).
template <class Visit>
void for_levels(const Tensor& maps, bool background, const Visit& visit) {
  const int64_t H = maps.size(1), W = maps.size(2);
  with_float_or_double(maps, [&](auto type) {
    const auto* from = maps.const_data_ptr<typename decltype(type)::type>();
    const auto sort = kernels().sort_levels.of(type);
    for_parts(
        maps.size(0), 1, [&] { return Work(H, W, background); },
        [&](const Work& work, int64_t n, int64_t, int64_t) {
          sort(work.levels, from + n * H * W);
          visit(work.levels, n);
        });
  });
}

Tensor box_curves(const Tensor& maps_) {
  const Tensor maps = checked_maps(maps_, "box_curves");
  Tensor out = empty_on(maps, {maps.size(0), 256, 4}, ScalarType::Int);
  int32_t* to = out.mutable_data_ptr<int32_t>();
  for_levels(maps, false, [&](const Levels& levels, int64_t n) { kernels().curve(levels, to + n * 1024); });
  return out;
}

Tensor iou_curves(const Tensor& maps_, const Tensor& truths_, const Tensor& starts_, bool all_contours) {
  const Tensor maps = checked_maps(maps_, "iou_curves");
  check_truths(maps, truths_, starts_);
  const Tensor truths = packed(truths_), starts = packed(starts_);
  const double* truth = truths.const_data_ptr<double>();
  const int64_t* start = starts.const_data_ptr<int64_t>();
  for (int64_t n = 0; n <= maps.size(0); ++n)
    STD_TORCH_CHECK(start[n] >= (n == 0 ? 0 : start[n - 1]) && start[n] <= truths.size(0), "iou_curves: starts");
  Tensor out = empty_on(maps, {maps.size(0), 256}, ScalarType::Double);
  double* to = out.mutable_data_ptr<double>();
  const Kernels& k = kernels();
  for_levels(maps, all_contours, [&](const Levels& levels, int64_t n) {
    const double* own = truth + 4 * start[n];
    const int64_t count = start[n + 1] - start[n];
    double* ious = to + n * 256;
    if (all_contours) return k.contours(levels, own, count, ious);
    int32_t boxes[256][4];
    k.curve(levels, boxes[0]);
    for (int level = 0; level < 256; ++level)
      ious[level] = level > 0 && std::equal(boxes[level], boxes[level] + 4, boxes[level - 1])
                        ? ious[level - 1]
                        : best_iou(boxes[level], own, count);
  });
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) {
  m.impl("box_curves", TORCH_BOX(&fastcam::box_curves));
  m.impl("iou_curves", TORCH_BOX(&fastcam::iou_curves));
}
