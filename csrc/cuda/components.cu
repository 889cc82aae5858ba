// CUDA operators that find boxes and components; see boxes.cuh and components.cuh.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "boxes.cuh"
#include "components.cuh"
#include "launch.h"

namespace fastcam {
namespace {

constexpr int kThreads = 256;

// Runs for which a block sets shared memory aside: smooth maps have far fewer.
constexpr int64_t kMostRuns = 2048;
// Rooms in global memory: for the odd mask with more runs, or for all masks where shared memory has no room for one.
constexpr int64_t kOddRooms = int64_t{32} << 20, kAllRooms = int64_t{512} << 20;

// The arguments that boxes and class_boxes share, and how their kernels are launched.
struct Plan {
  Search search{};
  bool bicubic;
  int64_t maps, thresholds, shared = 0;
  dim3 grid;
  std::optional<Tensor> levels, rooms;
  std::vector<float> relative;

  // space: bytes of shared memory that are wanted besides the map before the search begins.
  Plan(const Launch& launch, const Tensor& like, const std::optional<Tensor>& levels_,
       const std::vector<double>& relative_, int64_t height, int64_t width, bool relu, const std::string& mode,
       int64_t connectivity, const std::string& largest, int64_t h, int64_t w, int64_t M, int64_t space)
      : bicubic(mode == "bicubic"), maps(M), relative(relative_.begin(), relative_.end()) {
    STD_TORCH_CHECK(height > 0 && width > 0 && height < (int64_t{1} << 30) / width, "boxes: size");
    STD_TORCH_CHECK(M == 0 || (h > 0 && w > 0), "boxes: empty maps");
    if (levels_) {
      STD_TORCH_CHECK(levels_->scalar_type() == ScalarType::Float && levels_->dim() == 2 && levels_->size(0) == M &&
                          levels_->get_device_index() == like.get_device_index(),
                      "boxes: levels [M, T] float");
      levels = packed(*levels_);
    }
    thresholds = levels ? levels->size(1) : static_cast<int64_t>(relative.size());
    constexpr int64_t kMost = int64_t{1} << 31;
    STD_TORCH_CHECK(M < kMost && h < kMost && w < kMost && thresholds < kMost, "boxes: too many or too large maps");
    if (M * thresholds == 0) return;
    Search& s = search;
    s.size = {static_cast<int>(h), static_cast<int>(w), static_cast<int>(height), static_cast<int>(width), relu};
    s.choice = {static_cast<int>(connectivity), largest == "contour"};
    s.thresholds = static_cast<int32_t>(thresholds);

    const int64_t limit = launch.limits().shared;
    s.map_bytes = bicubic ? Surface<float, true>::bytes(s.size) : Surface<float, false>::bytes(s.size);
    if (s.map_bytes + space > limit) s.map_bytes = 0;
    Room<uint16_t> room;
    const auto bytes = [&] { return place(room, nullptr, s.size, s.capacity, s.choice.contour); };
    if ((bicubic || s.map_bytes > 0) && std::max(height, width) < 65536) {
      // A line through w samples is above a level in so many places at most, but for rounding.
      s.capacity = static_cast<int32_t>(std::min(height * std::min(w / 2 + 1, width / 2 + 1), kMostRuns));
      while (s.capacity > 256 && s.map_bytes + bytes() > limit) s.capacity /= 2;
      if (s.map_bytes + bytes() > limit) s.capacity = 0;
    }
    shared = s.map_bytes + std::max(space, s.capacity > 0 ? bytes() : 0);

    // Thresholds of few maps are spread over blocks, each of which makes the map again.
    const int64_t spread = s.map_bytes > 0 || space == 0 ? 2 * launch.limits().multiprocessors / M : 1;
    grid = dim3(static_cast<unsigned>(M),
                static_cast<unsigned>(std::clamp<int64_t>(spread, 1, std::min<int64_t>(thresholds, kMostRelative))));
    Room<int32_t> large;
    const int32_t most_runs = static_cast<int32_t>(height * ((width + 1) / 2));
    s.room_bytes = place(large, nullptr, s.size, most_runs, s.choice.contour);
    const int64_t affordable = (s.capacity > 0 ? kOddRooms : kAllRooms) / s.room_bytes;
    s.room_count = static_cast<int32_t>(
        std::clamp<int64_t>(affordable, 1, std::min<int64_t>(kMostRooms, M * static_cast<int64_t>(grid.y))));
    rooms = empty_on(like, {s.room_count * s.room_bytes}, ScalarType::Byte);
    s.rooms = rooms->mutable_data_ptr<uint8_t>();
  }

  // Calls run(levels, relative, out, search) for as many thresholds at a time as a kernel's arguments have room for.
  template <class Run>
  Tensor boxes(const Tensor& like, const Run& run) const {
    Tensor out = empty_on(like, {maps * thresholds, 4}, ScalarType::Int);
    const int64_t at_once = levels ? thresholds : kMostRelative;
    for (int64_t begin = 0; maps > 0 && begin < thresholds; begin += at_once) {
      Search part = search;
      part.begin = static_cast<int32_t>(begin);
      part.end = static_cast<int32_t>(std::min(begin + at_once, thresholds));
      Relative values{};
      if (!levels) std::copy(relative.begin() + part.begin, relative.begin() + part.end, values.thresholds);
      run(levels ? levels->const_data_ptr<float>() : nullptr, values, out.mutable_data_ptr<int32_t>(), part);
    }
    return out;
  }
};

Tensor boxes(const Tensor& coarse, std::optional<Tensor> levels, std::vector<double> thresholds, int64_t height,
             int64_t width, bool relu, std::string mode, int64_t connectivity, std::string largest) {
  STD_TORCH_CHECK(coarse.dim() == 3 && coarse.scalar_type() == ScalarType::Float, "boxes: coarse [M, h, w] float");
  const Launch launch(coarse);
  const Tensor maps = packed(coarse);
  const Plan plan(launch, maps, levels, thresholds, height, width, relu, mode, connectivity, largest, maps.size(1),
                  maps.size(2), maps.size(0), 0);
  return plan.boxes(maps, [&](const float* absolute, const Relative& relative, int32_t* out, const Search& search) {
    launch("boxes", plan.bicubic ? boxes_kernel<kThreads, true> : boxes_kernel<kThreads, false>, plan.grid, kThreads,
           plan.shared, maps.const_data_ptr<float>(), absolute, relative, out, search);
  });
}

template <class In>
Tensor class_boxes_of(const Launch& launch, const Plan& plan, const Layout& layout, const Tensor& weights) {
  const int64_t C = weights.size(1);
  const int64_t unheld = plan.search.map_bytes > 0 ? 0 : plan.maps * layout.positions();
  Tensor maps = empty_on(weights, {unheld}, ScalarType::Float);
  return plan.boxes(weights, [&](const float* absolute, const Relative& relative, int32_t* out, const Search& search) {
    launch("class_boxes",
           plan.bicubic ? class_boxes_kernel<kThreads, true, In> : class_boxes_kernel<kThreads, false, In>, plan.grid,
           kThreads, plan.shared, static_cast<const In*>(layout.tensor.const_data_ptr()),
           weights.const_data_ptr<float>(), maps.mutable_data_ptr<float>(), absolute, relative, out, C,
           layout.channels(), layout.channels_last, search);
  });
}

Tensor class_boxes(const Tensor& features, const Tensor& weights, std::optional<Tensor> levels,
                   std::vector<double> thresholds, int64_t height, int64_t width, bool relu, std::string mode,
                   int64_t connectivity, std::string largest) {
  STD_TORCH_CHECK(features.dim() == 4 && weights.dim() == 3 && weights.size(0) == features.size(0) &&
                      weights.size(2) == features.size(1) && weights.scalar_type() == ScalarType::Float &&
                      features.scalar_type() != ScalarType::Double &&
                      weights.get_device_index() == features.get_device_index(),
                  "class_boxes: weights do not match features");
  const Launch launch(features);
  const Layout layout(features);
  const Tensor w = packed(weights);
  const int64_t space = class_map_space(layout.positions()) * static_cast<int64_t>(sizeof(float));
  const Plan plan(launch, features, levels, thresholds, height, width, relu, mode, connectivity, largest,
                  features.size(2), features.size(3), layout.images() * w.size(1), space);
  switch (dtype_of(features)) {
    case DType::kHalf: return class_boxes_of<__half>(launch, plan, layout, w);
    case DType::kBFloat16: return class_boxes_of<__nv_bfloat16>(launch, plan, layout, w);
    default: return class_boxes_of<float>(launch, plan, layout, w);
  }
}

// Pixels whose components are found at a time: bounds the work space, which is 10 bytes a pixel, unless one mask is
// larger. Only a batch of more is labelled twice: to count its components, and again to write them.
constexpr int64_t kMostPixels = int64_t{1} << 25;

std::tuple<Tensor, Tensor, Tensor> components(const Tensor& masks_, int64_t connectivity,
                                              std::optional<int64_t> max_components) {
  // [N, H, W] bytes, 0 or not
  STD_TORCH_CHECK(masks_.dim() == 3 && masks_.scalar_type() == ScalarType::Byte && masks_.size(1) > 0 &&
                      masks_.size(2) > 0 && masks_.size(1) < (int64_t{1} << 30) / masks_.size(2) &&
                      max_components.value_or(1) > 0,
                  "components: masks [N, H, W] of bytes");
  const Launch launch(masks_);
  const Tensor masks = packed(masks_);
  const int64_t N = masks.size(0), H = masks.size(1), W = masks.size(2), words = ceil_div(W, 32), half = ceil_div(W, 2);
  const int64_t at_once = std::min(std::max<int64_t>(1, kMostPixels / (H * W)), N);
  const int64_t most_slots = at_once * H * half, most_blocks = ceil_div(at_once * H * words, kThreads);
  Tensor bits = empty_on(masks, {at_once * H * words}, ScalarType::Int);
  Tensor slots = empty_on(masks, {5, most_slots}, ScalarType::Int);
  Tensor counts = empty_on(masks, {most_blocks}, ScalarType::Long);
  int32_t* slot = slots.mutable_data_ptr<int32_t>();
  int64_t* count = counts.mutable_data_ptr<int64_t>();
  Batch batch{reinterpret_cast<uint32_t*>(bits.mutable_data_ptr<int32_t>()),
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
              connectivity == 8 ? 1 : 0};
  const auto grid = [&] { return dim3(static_cast<unsigned>(ceil_div(int64_t{batch.rows} * words, kThreads))); };

  // Labels some of the masks and adds the number of their components to the total.
  const auto label = [&](int64_t first, Tensor& total) {
    const int64_t images = std::min(at_once, N - first);
    const uint8_t* from = masks.const_data_ptr<uint8_t>() + first * H * W;
    batch.rows = static_cast<int32_t>(images * H);
    const auto run = [&](auto* kernel, dim3 blocks, const auto&... arguments) {
      launch("components", kernel, blocks, kThreads, 0, arguments...);
    };
    const bool aligned = W % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 4 == 0;
    run(mask_bits_kernel<kThreads>, grid(), from, batch, aligned);
    run(begin_segments_kernel<kThreads>, grid(), batch);
    run(join_segments_kernel<kThreads>, grid(), batch);
    run(sum_segments_kernel<kThreads>, grid(), batch);
    if (max_components)
      run(keep_largest_kernel<kThreads>, dim3(static_cast<unsigned>(images)), batch,
          static_cast<int32_t>(std::min(*max_components, int64_t{1} << 30)));
    run(count_components_kernel<kThreads>, grid(), batch, count);
    run(offsets_kernel<kThreads>, dim3(1), count, static_cast<int64_t>(grid().x), total.mutable_data_ptr<int64_t>());
  };

  int64_t found = 0;
  if (N > 0) {
    Tensor total = torch::stable::new_zeros(masks, {1}, ScalarType::Long);
    for (int64_t first = 0; first < N; first += at_once) label(first, total);
    cudaError_t error = cudaMemcpyAsync(&found, total.const_data_ptr<int64_t>(), sizeof(found), cudaMemcpyDeviceToHost,
                                        launch.stream());
    if (error == cudaSuccess) error = cudaStreamSynchronize(launch.stream());
    STD_TORCH_CHECK(error == cudaSuccess, "fastcam: components: ", cudaGetErrorString(error));
  }
  Tensor boxes = empty_on(masks, {found, 4}, ScalarType::Int);
  Tensor areas = empty_on(masks, {found}, ScalarType::Int);
  Tensor image = empty_on(masks, {found}, ScalarType::Long);
  if (found == 0) return {boxes, areas, image};
  Tensor total = torch::stable::new_zeros(masks, {1}, ScalarType::Long);
  for (int64_t first = 0; first < N; first += at_once) {
    if (at_once < N) label(first, total);
    launch("components", write_components_kernel<kThreads>, grid(), kThreads, 0, batch,
           static_cast<const int64_t*>(count), first, boxes.mutable_data_ptr<int32_t>(),
           areas.mutable_data_ptr<int32_t>(), image.mutable_data_ptr<int64_t>());
  }
  return {boxes, areas, image};
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) {
  m.impl("boxes", TORCH_BOX(&fastcam::boxes));
  m.impl("class_boxes", TORCH_BOX(&fastcam::class_boxes));
  m.impl("components", TORCH_BOX(&fastcam::components));
}
