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

using Found = std::array<int32_t, 5>;  // xyxy, area

// Drops all but the components with most pixels, the first in raster order where they tie.
void keep_largest(std::vector<int32_t>& indices, size_t most, const Component* components) {
  if (indices.size() <= most) return;
  // The smallest area that stays, and how many of exactly that area, first in raster order.
  std::vector<int32_t> areas;
  for (const int32_t i : indices) areas.push_back(components[i].area);
  std::sort(areas.begin(), areas.end(), std::greater<int32_t>());
  const int32_t least = areas[most - 1];
  size_t ties =
      most - static_cast<size_t>(std::count_if(areas.begin(), areas.end(), [&](int32_t a) { return a > least; }));
  indices.erase(std::remove_if(indices.begin(), indices.end(),
                               [&](int32_t i) {
                                 const int32_t area = components[i].area;
                                 if (area != least) return area < least;
                                 return ties > 0 ? (--ties, false) : true;
                               }),
                indices.end());
}

// Turns parents into labels, in place: 1, 2, ... for the components that stay, 0 for others. Parents come before their
// children.
void number_components(int32_t* parent, int64_t begun, const std::vector<int32_t>& stay) {
  size_t next = 0;
  for (int64_t i = 0; i < begun; ++i) {
    if (parent[i] != i)
      parent[i] = parent[parent[i]];
    else
      parent[i] = next < stay.size() && stay[next] == i ? static_cast<int32_t>(++next) : 0;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> components(const Tensor& masks_, int64_t connectivity,
                                                      std::optional<int64_t> max_components, int64_t min_area,
                                                      bool fill_holes, bool labels) {
  check_masks(masks_, max_components);
  const Tensor masks = packed(masks_);
  const int64_t N = masks.size(0), H = masks.size(1), W = masks.size(2);
  Tensor painted = empty_on(masks, {labels ? N : 0, H, W}, ScalarType::Int);
  std::vector<std::vector<Found>> found(N);
  const uint8_t* from = masks.const_data_ptr<uint8_t>();
  int32_t* paint = painted.mutable_data_ptr<int32_t>();
  const Kernels& k = kernels();
  for_ranges(N, [&](int64_t begin, int64_t end) {
    Arena arena(true);
    Room room = make_room(arena, H, W, labels || fill_holes);
    std::vector<int32_t> stay;
    for (int64_t n = begin; n < end; ++n) {
      const int64_t begun = k.components(room, from + n * H * W, static_cast<int>(connectivity), fill_holes);
      stay.clear();
      for (int64_t i = 0; i < begun; ++i)
        if (room.parent[i] == i && room.components[i].area >= min_area) stay.push_back(static_cast<int32_t>(i));
      if (max_components) keep_largest(stay, static_cast<size_t>(*max_components), room.components);
      found[n].reserve(stay.size());
      for (const int32_t i : stay) {
        const Component& c = room.components[i];
        found[n].push_back({c.corners[0], c.corners[1], -c.corners[2], -c.corners[3], c.area});
      }
      if (!labels) continue;
      number_components(room.parent, begun, stay);
      k.paint_runs(room, room.parent, paint + n * H * W);
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
  return {boxes, areas, image, painted};
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("components", TORCH_BOX(&fastcam::components)); }
