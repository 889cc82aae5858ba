// CUDA operator that lists all components (components.cuh). What is chosen here, how many masks are labelled at a time,
// changes speed and memory alone.
#include <algorithm>
#include <optional>
#include <tuple>

#include "../arguments.h"
#include "components.cuh"
#include "launch.h"

namespace fastcam {
namespace {

constexpr int kThreads = 256;

// Pixels whose components are found at a time: bounds the work space, which is 10 bytes a pixel, unless one mask is
// larger. Only a batch of more is labelled twice: to count its components, and again to write them.
constexpr int64_t kPixelsAtOnce = int64_t{1} << 25;

std::tuple<Tensor, Tensor, Tensor, Tensor> components(const Tensor& masks_, int64_t connectivity,
                                                      std::optional<int64_t> max_components, int64_t min_area,
                                                      bool fill_holes, bool labels) {
  check_masks(masks_, max_components);
  const Launch launch(masks_);
  const Tensor masks = packed(masks_);
  const int64_t N = masks.size(0), H = masks.size(1), W = masks.size(2), words = ceil_div(W, 32), half = ceil_div(W, 2);
  const int64_t at_once = std::min(std::max<int64_t>(1, kPixelsAtOnce / (H * W)), N);
  const int64_t most_words = at_once * H * words, most_slots = at_once * H * half;
  Tensor bits = empty_on(masks, {2, most_words}, ScalarType::Int);
  Tensor slots = empty_on(masks, {5, most_slots}, ScalarType::Int);
  Tensor counts = empty_on(masks, {ceil_div(most_words, kThreads)}, ScalarType::Long);
  Tensor begins = empty_on(masks, {labels ? at_once : 0}, ScalarType::Int);
  Tensor painted = empty_on(masks, {labels ? N : 0, H, W}, ScalarType::Int);
  auto* word = reinterpret_cast<uint32_t*>(bits.mutable_data_ptr<int32_t>());
  int32_t* slot = slots.mutable_data_ptr<int32_t>();
  int64_t* count = counts.mutable_data_ptr<int64_t>();
  int32_t* begin = labels ? begins.mutable_data_ptr<int32_t>() : nullptr;
  // No area is as large as the largest of these.
  const auto least = static_cast<int32_t>(std::min(min_area, int64_t{1} << 30));
  const bool drops = least > 1 || max_components;
  Batch batch{word,
              word + most_words,
              slot,
              slot + most_slots,
              slot + 2 * most_slots,
              slot + 3 * most_slots,
              slot + 4 * most_slots,
              0,
              static_cast<int32_t>(H),
              static_cast<int32_t>(W),
              static_cast<int32_t>(words),
              static_cast<int32_t>(half),
              0};
  const auto grid = [&] { return dim3(static_cast<unsigned>(ceil_div(int64_t{batch.rows} * words, kThreads))); };
  const auto run = [&](auto* kernel, dim3 blocks, const auto&... arguments) {
    launch("components", kernel, blocks, kThreads, 0, arguments...);
  };

  const auto join = [&](const uint8_t* from, bool invert, bool diagonals) {
    batch.reach = diagonals ? 1 : 0;
    const bool aligned = W % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 4 == 0;
    run(label_blocks_kernel<kThreads>, grid(), from, batch, aligned, invert);
    run(join_blocks_kernel<kThreads>, grid(), batch);
    run(sum_blocks_kernel<kThreads>, grid(), batch);
  };

  // Labels some of the masks and adds the number of their components to the total.
  const auto label = [&](int64_t first, Tensor& total) {
    const int64_t images = std::min(at_once, N - first);
    const uint8_t* from = masks.const_data_ptr<uint8_t>() + first * H * W;
    batch.rows = static_cast<int32_t>(images * H);
    if (fill_holes) {
      join(from, true, connectivity != 8);
      run(fill_holes_kernel<kThreads>, grid(), batch);
    }
    join(fill_holes ? nullptr : from, false, connectivity == 8);
    if (max_components)
      run(keep_largest_kernel<kThreads>, dim3(static_cast<unsigned>(images)), batch,
          static_cast<int32_t>(std::min(*max_components, int64_t{1} << 30)));
    run(count_components_kernel<kThreads>, grid(), batch, drops ? std::max(least, 1) : 0, count);
    run(offsets_kernel<kThreads>, dim3(1), count, static_cast<int64_t>(grid().x), total.mutable_data_ptr<int64_t>());
  };

  int64_t found = 0;
  if (N > 0) {
    Tensor total = torch::stable::new_zeros(masks, {1}, ScalarType::Long);
    for (int64_t first = 0; first < N; first += at_once) label(first, total);
    found = launch.value_at("components", total.const_data_ptr<int64_t>());
  }
  Tensor boxes = empty_on(masks, {found, 4}, ScalarType::Int);
  Tensor areas = empty_on(masks, {found}, ScalarType::Int);
  Tensor image = empty_on(masks, {found}, ScalarType::Long);
  if (N == 0 || (found == 0 && !labels)) return {boxes, areas, image, painted};
  Tensor total = torch::stable::new_zeros(masks, {1}, ScalarType::Long);
  for (int64_t first = 0; first < N; first += at_once) {
    if (at_once < N) label(first, total);
    run(write_components_kernel<kThreads>, grid(), batch, static_cast<const int64_t*>(count), first,
        boxes.mutable_data_ptr<int32_t>(), areas.mutable_data_ptr<int32_t>(), image.mutable_data_ptr<int64_t>(), begin);
    if (labels)
      run(paint_labels_kernel<kThreads>, grid(), batch, static_cast<const int32_t*>(begin),
          painted.mutable_data_ptr<int32_t>() + first * H * W);
  }
  return {boxes, areas, image, painted};
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) { m.impl("components", TORCH_BOX(&fastcam::components)); }
