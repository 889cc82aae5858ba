// CPU operator that lists all components of masks. Images are spread over threads; results are integers, which no order
// can change.
#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <tuple>
#include <vector>

#include "../arguments.h"
#include "dispatch.h"

namespace fastcam {
namespace {

std::tuple<Tensor, Tensor, Tensor> components(const Tensor& masks_, int64_t connectivity,
                                              std::optional<int64_t> max_components) {
  check_masks(masks_, max_components);
  using Found = std::array<int32_t, 5>;  // xyxy, area
  const Tensor masks = packed(masks_);
  const int64_t N = masks.size(0), H = masks.size(1), W = masks.size(2);
  std::vector<std::vector<Found>> found(N);
  const uint8_t* from = masks.const_data_ptr<uint8_t>();
  const Kernels& k = kernels();
  for_ranges(N, [&](int64_t begin, int64_t end) {
    Arena arena(true);
    Room room = make_room(arena, H, W);
    for (int64_t n = begin; n < end; ++n) {
      std::vector<Found>& list = found[n];
      const int64_t begun = k.components(room, from + n * H * W, static_cast<int>(connectivity));
      for (int64_t i = 0; i < begun; ++i) {
        const Component& c = room.components[i];
        if (room.parent[i] != i) continue;
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

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("components", TORCH_BOX(&fastcam::components)); }
