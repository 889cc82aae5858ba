// CPU operators that find boxes: the largest component above a threshold, all components, and the standard evaluator's
// box at every 8-bit level. Images are spread over threads; all results are integers that no order can change.
#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "../common.h"
#include "workspace.h"

namespace fastcam {
namespace {

// The arguments that boxes and class_boxes share.
struct Search {
  Tensor levels;  // [T], or [M, T] one row for each map
  bool absolute, relu, bicubic;
  int64_t h, w, H, W, M;
  Choice choice;

  Search(const Tensor& levels_, bool absolute_, int64_t height, int64_t width, bool relu_, const std::string& mode,
         int64_t connectivity, const std::string& largest, int64_t h_, int64_t w_, int64_t maps)
      : levels(torch::stable::contiguous(levels_)),
        absolute(absolute_),
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
    STD_TORCH_CHECK(levels.scalar_type() == ScalarType::Float && (levels.dim() == 1 || levels.dim() == 2) &&
                        (levels.dim() == 1 || levels.size(0) == M),
                    "boxes: levels [T] or [M, T]");
  }

  int64_t thresholds() const { return levels.size(levels.dim() - 1); }

  const float* levels_of(int64_t map) const {
    return levels.const_data_ptr<float>() + (levels.dim() == 2 ? map * thresholds() : 0);
  }

  // coarse_of(m, space) gives the coarse map m, which may be made in space [h, w].
  template <class CoarseOf>
  Tensor run(const Tensor& like, const CoarseOf& coarse_of) const {
    Tensor out = torch::stable::new_empty(like, {M, thresholds(), 4}, ScalarType::Int);
    if (M == 0) return out;
    int32_t* to = out.mutable_data_ptr<int32_t>();
    const PlanMemory<float> plan(h, w, H, W, relu, bicubic);
    const Kernels& k = kernels();
    for_maps(M, [&](int64_t begin, int64_t end) {
      ScratchMemory<float> scratch(plan, true);
      float* space = scratch.arena().template array<float>(h * w);
      for (int64_t m = begin; m < end; ++m)
        k.boxes(plan, scratch, coarse_of(m, space), levels_of(m), thresholds(), absolute, choice,
                to + m * thresholds() * 4);
    });
    return out;
  }
};

Tensor boxes(const Tensor& coarse, const Tensor& levels, bool absolute, int64_t height, int64_t width, bool relu,
             std::string mode, int64_t connectivity, std::string largest) {
  // coarse [M, h, w] float
  STD_TORCH_CHECK(coarse.dim() == 3 && coarse.scalar_type() == ScalarType::Float, "boxes: coarse [M, h, w] float");
  const Tensor maps = torch::stable::contiguous(coarse);
  const Search search(levels, absolute, height, width, relu, mode, connectivity, largest, maps.size(1), maps.size(2),
                      maps.size(0));
  const float* from = maps.const_data_ptr<float>();
  return search.run(maps, [&](int64_t m, float*) { return from + m * search.h * search.w; });
}

Tensor class_boxes(const Tensor& features, const Tensor& weights, const Tensor& levels, bool absolute, int64_t height,
                   int64_t width, bool relu, std::string mode, int64_t connectivity, std::string largest) {
  // features [N, K, h, w] float or half types; weights [N, C, K] float
  STD_TORCH_CHECK(features.dim() == 4 && weights.dim() == 3 && weights.size(0) == features.size(0) &&
                      weights.size(2) == features.size(1) && weights.scalar_type() == ScalarType::Float &&
                      features.scalar_type() != ScalarType::Double,
                  "class_boxes: weights do not match features");
  const Layout layout(features);
  const Tensor w = torch::stable::contiguous(weights);
  const int64_t C = w.size(1), K = layout.channels();
  const Search search(levels, absolute, height, width, relu, mode, connectivity, largest, features.size(2),
                      features.size(3), layout.images() * C);
  const float* weight_data = w.const_data_ptr<float>();
  const Kernels& k = kernels();
  return search.run(features, [&](int64_t m, float* space) {
    k.class_map(layout.image(m / C), weight_data + m * K, space);
    return const_cast<const float*>(space);
  });
}

template <class T>
void curves_of(const Tensor& maps, int32_t* out) {
  const int64_t H = maps.size(1), W = maps.size(2);
  const T* from = static_cast<const T*>(maps.const_data_ptr());
  const Kernels& k = kernels();
  for_maps(maps.size(0), [&](int64_t begin, int64_t end) {
    const LevelsMemory levels(H, W);
    for (int64_t n = begin; n < end; ++n) {
      if constexpr (sizeof(T) == sizeof(double))
        k.curve_double(levels, from + n * H * W, out + n * 1024);
      else
        k.curve_float(levels, from + n * H * W, out + n * 1024);
    }
  });
}

Tensor box_curves(const Tensor& maps_) {
  // [N, H, W] float or double
  STD_TORCH_CHECK(maps_.dim() == 3 && maps_.size(1) > 0 && maps_.size(2) > 0 && maps_.size(1) < 65536 &&
                      maps_.size(2) < 65536 && maps_.size(1) < (int64_t{1} << 30) / maps_.size(2),
                  "box_curves: maps [N, H, W]");
  const Tensor maps = torch::stable::contiguous(maps_);
  Tensor out = torch::stable::new_empty(maps, {maps.size(0), 256, 4}, ScalarType::Int);
  const DType dtype = dtype_of(maps);
  STD_TORCH_CHECK(dtype == DType::kFloat || dtype == DType::kDouble, "box_curves: float or double");
  if (dtype == DType::kDouble)
    curves_of<double>(maps, out.mutable_data_ptr<int32_t>());
  else
    curves_of<float>(maps, out.mutable_data_ptr<int32_t>());
  return out;
}

std::tuple<Tensor, Tensor, Tensor> components(const Tensor& masks_, int64_t connectivity,
                                              std::optional<int64_t> max_components) {
  // [N, H, W] bytes, 0 or not
  STD_TORCH_CHECK(masks_.dim() == 3 && masks_.scalar_type() == ScalarType::Byte && masks_.size(1) > 0 &&
                      masks_.size(2) > 0 && masks_.size(1) < (int64_t{1} << 30) / masks_.size(2),
                  "components: masks [N, H, W] of bytes");
  using Found = std::array<int32_t, 5>;  // xyxy, area
  const Tensor masks = torch::stable::contiguous(masks_);
  const int64_t N = masks.size(0), H = masks.size(1), W = masks.size(2);
  std::vector<std::vector<Found>> found(N);
  const uint8_t* from = masks.const_data_ptr<uint8_t>();
  const PlanMemory<float> plan(0, 0, H, W, false, false);
  const Kernels& k = kernels();
  for_maps(N, [&](int64_t begin, int64_t end) {
    ScratchMemory<float> scratch(plan, true);
    for (int64_t n = begin; n < end; ++n) {
      std::vector<Found>& list = found[n];
      const int64_t begun = k.components(plan, scratch, from + n * H * W, static_cast<int>(connectivity));
      for (int64_t i = 0; i < begun; ++i) {
        const Component& c = scratch.components[i];
        if (c.parent != i) continue;
        list.push_back({c.x0, c.y0, c.x1, c.y1, c.area});
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
  Tensor boxes = torch::stable::new_empty(masks, {total, 4}, ScalarType::Int);
  Tensor areas = torch::stable::new_empty(masks, {total}, ScalarType::Int);
  Tensor image = torch::stable::new_empty(masks, {total}, ScalarType::Long);
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
  m.impl("components", TORCH_BOX(&fastcam::components));
}
