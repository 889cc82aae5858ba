// CPU operators that find boxes: the largest component above a threshold, all components, and the standard evaluator's
// box, or best IoU, at every 8-bit level. Images are spread over threads, and thresholds where images are few; results
// are integers, and IoU made of integers, which no order can change.
#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "../common.h"
#include "../iou.h"
#include "workspace.h"

namespace fastcam {
namespace {

// The arguments that boxes and class_boxes share.
struct Search {
  std::optional<Tensor> levels;  // [M, T] absolute
  std::vector<float> relative;   // or [T] relative to a map's range
  bool relu, bicubic;
  int64_t h, w, H, W, M;
  Choice choice;

  Search(const std::optional<Tensor>& levels_, const std::vector<double>& thresholds, int64_t height, int64_t width,
         bool relu_, const std::string& mode, int64_t connectivity, const std::string& largest, int64_t h_, int64_t w_,
         int64_t maps)
      : relative(thresholds.begin(), thresholds.end()),
        relu(relu_),
        bicubic(mode == "bicubic"),
        h(h_),
        w(w_),
        H(height),
        W(width),
        M(maps),
        choice{static_cast<int>(connectivity), largest == "contour"} {
    STD_TORCH_CHECK(H > 0 && W > 0 && H < (int64_t{1} << 30) / W, "boxes: size");
    STD_TORCH_CHECK(M == 0 || (h > 0 && w > 0), "boxes: empty maps");
    if (!levels_) return;
    STD_TORCH_CHECK(levels_->scalar_type() == ScalarType::Float && levels_->dim() == 2 && levels_->size(0) == M,
                    "boxes: levels [M, T] float");
    levels = packed(*levels_);
  }

  int64_t thresholds() const { return levels ? levels->size(1) : static_cast<int64_t>(relative.size()); }

  const float* levels_of(int64_t map) const {
    return levels ? levels->const_data_ptr<float>() + map * thresholds() : relative.data();
  }

  // coarse_of(m, space) gives the coarse map m, which may be made in space [h, w].
  template <class CoarseOf>
  Tensor run(const Tensor& like, const CoarseOf& coarse_of) const {
    Tensor out = empty_on(like, {M * thresholds(), 4}, ScalarType::Int);
    if (M == 0) return out;
    int32_t* to = out.mutable_data_ptr<int32_t>();
    const PlanMemory<float> plan(h, w, H, W, relu, bicubic);
    const Kernels& k = kernels();
    for_parts(
        M, thresholds(), [&] { return std::make_unique<ScratchMemory<float>>(plan, true); },
        [&](const auto& scratch, int64_t m, int64_t begin, int64_t end) {
          k.boxes(plan, *scratch, coarse_of(m, scratch->made), levels_of(m) + begin, end - begin, levels.has_value(),
                  choice, to + (m * thresholds() + begin) * 4);
        });
    return out;
  }
};

Tensor boxes(const Tensor& coarse, std::optional<Tensor> levels, std::vector<double> thresholds, int64_t height,
             int64_t width, bool relu, std::string mode, int64_t connectivity, std::string largest) {
  // coarse [M, h, w] float
  STD_TORCH_CHECK(coarse.dim() == 3 && coarse.scalar_type() == ScalarType::Float, "boxes: coarse [M, h, w] float");
  const Tensor maps = packed(coarse);
  const Search search(levels, thresholds, height, width, relu, mode, connectivity, largest, maps.size(1), maps.size(2),
                      maps.size(0));
  const float* from = maps.const_data_ptr<float>();
  return search.run(maps, [&](int64_t m, float*) { return from + m * search.h * search.w; });
}

Tensor class_boxes(const Tensor& features, const Tensor& weights, std::optional<Tensor> levels,
                   std::vector<double> thresholds, int64_t height, int64_t width, bool relu, std::string mode,
                   int64_t connectivity, std::string largest) {
  // features [N, K, h, w] float or half types; weights [N, C, K] float
  STD_TORCH_CHECK(features.dim() == 4 && weights.dim() == 3 && weights.size(0) == features.size(0) &&
                      weights.size(2) == features.size(1) && weights.scalar_type() == ScalarType::Float &&
                      features.scalar_type() != ScalarType::Double,
                  "class_boxes: weights do not match features");
  const Layout layout(features);
  const Tensor w = packed(weights);
  const int64_t C = w.size(1), K = layout.channels();
  const Search search(levels, thresholds, height, width, relu, mode, connectivity, largest, features.size(2),
                      features.size(3), layout.images() * C);
  const float* weight_data = w.const_data_ptr<float>();
  const Kernels& k = kernels();
  return search.run(features, [&](int64_t m, float* space) {
    k.class_map(layout.image(m / C), weight_data + m * K, 0, layout.positions(), space);
    return const_cast<const float*>(space);
  });
}

// Sorts each map's pixels by level, then visit(levels, n).
template <class Visit>
void for_levels(const Tensor& maps, bool background, const Visit& visit) {
  const int64_t H = maps.size(1), W = maps.size(2);
  const bool doubles = maps.scalar_type() == ScalarType::Double;
  const char* from = static_cast<const char*>(maps.const_data_ptr());
  const Kernels& k = kernels();
  for_parts(
      maps.size(0), 1, [&] { return std::make_unique<LevelsMemory>(H, W, background); },
      [&](const auto& levels, int64_t n, int64_t, int64_t) {
        if (doubles)
          k.sort_levels_double(*levels, reinterpret_cast<const double*>(from) + n * H * W);
        else
          k.sort_levels_float(*levels, reinterpret_cast<const float*>(from) + n * H * W);
        visit(*levels, n);
      });
}

Tensor checked_maps(const Tensor& maps, const char* name) {
  // [N, H, W] float or double
  STD_TORCH_CHECK(maps.dim() == 3 && maps.size(1) > 0 && maps.size(2) > 0 && maps.size(1) < 65536 &&
                      maps.size(2) < 65536 && maps.size(1) < (int64_t{1} << 30) / maps.size(2) &&
                      (maps.scalar_type() == ScalarType::Float || maps.scalar_type() == ScalarType::Double),
                  name, ": maps [N, H, W] float or double");
  return packed(maps);
}

Tensor box_curves(const Tensor& maps_) {
  const Tensor maps = checked_maps(maps_, "box_curves");
  Tensor out = empty_on(maps, {maps.size(0), 256, 4}, ScalarType::Int);
  int32_t* to = out.mutable_data_ptr<int32_t>();
  for_levels(maps, false, [&](const Levels& levels, int64_t n) { kernels().curve(levels, to + n * 1024); });
  return out;
}

Tensor iou_curves(const Tensor& maps_, const Tensor& truths_, const Tensor& starts_, bool all_contours) {
  // truths [M, 4] double; those of image n are rows starts[n] up to starts[n + 1]
  const Tensor maps = checked_maps(maps_, "iou_curves");
  STD_TORCH_CHECK(truths_.dim() == 2 && truths_.size(1) == 4 && truths_.scalar_type() == ScalarType::Double &&
                      starts_.dim() == 1 && starts_.size(0) == maps.size(0) + 1 &&
                      starts_.scalar_type() == ScalarType::Long,
                  "iou_curves: truth boxes [M, 4] double and starts [N + 1] int64");
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

std::tuple<Tensor, Tensor, Tensor> components(const Tensor& masks_, int64_t connectivity,
                                              std::optional<int64_t> max_components) {
  // [N, H, W] bytes, 0 or not
  STD_TORCH_CHECK(masks_.dim() == 3 && masks_.scalar_type() == ScalarType::Byte && masks_.size(1) > 0 &&
                      masks_.size(2) > 0 && masks_.size(1) < (int64_t{1} << 30) / masks_.size(2),
                  "components: masks [N, H, W] of bytes");
  using Found = std::array<int32_t, 5>;  // xyxy, area
  const Tensor masks = packed(masks_);
  const int64_t N = masks.size(0), H = masks.size(1), W = masks.size(2);
  std::vector<std::vector<Found>> found(N);
  const uint8_t* from = masks.const_data_ptr<uint8_t>();
  const PlanMemory<float> plan(0, 0, H, W, false, false);
  const Kernels& k = kernels();
  for_ranges(N, [&](int64_t begin, int64_t end) {
    ScratchMemory<float> scratch(plan, true);
    for (int64_t n = begin; n < end; ++n) {
      std::vector<Found>& list = found[n];
      const int64_t begun = k.components(plan, scratch, from + n * H * W, static_cast<int>(connectivity));
      for (int64_t i = 0; i < begun; ++i) {
        const Component& c = scratch.components[i];
        if (scratch.parent[i] != i) continue;
        list.push_back({c.corners[0], c.corners[1], -c.corners[2], -c.corners[3], c.area});
      }
      const size_t most = static_cast<size_t>(max_components.value_or(static_cast<int64_t>(list.size())));
      if (list.size() <= most) continue;
      // The smallest area that stays, and how many of exactly that area, first in raster order.
      std::vector<int32_t> areas;
      for (const Found& f : list) areas.push_back(f[4]);
      std::sort(areas.begin(), areas.end(), std::greater<int32_t>());
      const int32_t least = areas[most - 1];
      size_t ties =
          most - static_cast<size_t>(std::count_if(areas.begin(), areas.end(), [&](int32_t a) { return a > least; }));
      list.erase(std::remove_if(list.begin(), list.end(),
                                [&](const Found& f) {
                                  if (f[4] != least) return f[4] < least;
                                  return ties > 0 ? (--ties, false) : true;
                                }),
                 list.end());
    }
  });

  int64_t total = 0;
  for (const auto& list : found) total += static_cast<int64_t>(list.size());
  Tensor boxes = empty_on(masks, {total, 4}, ScalarType::Int);
  Tensor areas = empty_on(masks, {total}, ScalarType::Int);
  Tensor image = empty_on(masks, {total}, ScalarType::Long);
  int32_t *box = boxes.mutable_data_ptr<int32_t>(), *area = areas.mutable_data_ptr<int32_t>();
  int64_t* index = image.mutable_data_ptr<int64_t>();
  for (int64_t n = 0; n < N; ++n) {
    for (const Found& f : found[n]) {
      box = std::copy(f.begin(), f.begin() + 4, box);
      *area++ = f[4];
      *index++ = n;
    }
  }
  return {boxes, areas, image};
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) {
  m.impl("boxes", TORCH_BOX(&fastcam::boxes));
  m.impl("class_boxes", TORCH_BOX(&fastcam::class_boxes));
  m.impl("box_curves", TORCH_BOX(&fastcam::box_curves));
  m.impl("iou_curves", TORCH_BOX(&fastcam::iou_curves));
  m.impl("components", TORCH_BOX(&fastcam::components));
}
