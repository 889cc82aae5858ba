// CUDA operators that find the box of the largest component (boxes.cuh). What is chosen here, how much shared memory a
// map gets and how many blocks share its thresholds, changes speed alone.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../arguments.h"
#include "boxes.cuh"
#include "launch.h"

namespace fastcam {
namespace {

constexpr int kThreads = 256;

// Runs for which a block sets shared memory aside: smooth maps have far fewer.
constexpr int64_t kMostRuns = 2048;
// Rooms in global memory: for the odd mask with more runs, or for all masks where shared memory has no room for one.
constexpr int64_t kOddRooms = int64_t{32} << 20, kAllRooms = int64_t{512} << 20;

// How the kernels of a search are launched, and the work space that they share.
struct BoxLaunch {
  const Search& search;
  BoxArguments arguments{};
  int64_t shared = 0;
  dim3 grid;
  std::optional<Tensor> rooms;

  // space: bytes of shared memory that are wanted besides the map before the search begins.
  BoxLaunch(const Launch& launch, const Tensor& like, const Search& s, int64_t space) : search(s) {
    const int64_t M = s.M, thresholds = s.thresholds();
    constexpr int64_t kMost = int64_t{1} << 31;
    STD_TORCH_CHECK(M < kMost && s.h < kMost && s.w < kMost && thresholds < kMost, "boxes: too many or too large maps");
    if (M * thresholds == 0) return;
    BoxArguments& a = arguments;
    a.size = {static_cast<int>(s.h), static_cast<int>(s.w), static_cast<int>(s.H), static_cast<int>(s.W), s.relu};
    a.choice = s.choice;
    a.thresholds = static_cast<int32_t>(thresholds);

    // Shared memory: first the map, if it fits beside what is wanted, then a room for as many runs as are likely.
    const int64_t limit = launch.limits().shared;
    a.map_bytes = s.bicubic ? Surface<float, true>::bytes(a.size) : Surface<float, false>::bytes(a.size);
    if (a.map_bytes + space > limit) a.map_bytes = 0;
    Room<uint16_t> room;
    const auto bytes = [&] { return place(room, nullptr, a.size, a.capacity, a.choice.contour); };
    if ((s.bicubic || a.map_bytes > 0) && std::max(s.H, s.W) < 65536) {
      // A line through w samples is above a level in so many places at most, but for rounding.
      a.capacity = static_cast<int32_t>(std::min(s.H * std::min(s.w / 2 + 1, s.W / 2 + 1), kMostRuns));
      while (a.capacity > 256 && a.map_bytes + bytes() > limit) a.capacity /= 2;
      if (a.map_bytes + bytes() > limit) a.capacity = 0;
    }
    shared = a.map_bytes + std::max(space, a.capacity > 0 ? bytes() : 0);

    // Thresholds of few maps are spread over blocks, each of which makes the map again.
    const int64_t spread = a.map_bytes > 0 || space == 0 ? 2 * launch.limits().multiprocessors / M : 1;
    grid = dim3(static_cast<unsigned>(M),
                static_cast<unsigned>(std::clamp<int64_t>(spread, 1, std::min<int64_t>(thresholds, kMostRelative))));

    // Rooms in global memory, each large enough for any mask.
    Room<int32_t> large;
    const int32_t most_runs = static_cast<int32_t>(s.H * ((s.W + 1) / 2));
    a.room_bytes = place(large, nullptr, a.size, most_runs, a.choice.contour);
    const int64_t affordable = (a.capacity > 0 ? kOddRooms : kAllRooms) / a.room_bytes;
    a.room_count = static_cast<int32_t>(
        std::clamp<int64_t>(affordable, 1, std::min<int64_t>(kMostRooms, M * static_cast<int64_t>(grid.y))));
    rooms = empty_on(like, {a.room_count * a.room_bytes}, ScalarType::Byte);
    a.rooms = rooms->mutable_data_ptr<uint8_t>();
  }

  // run(levels, relative, out, arguments) for as many thresholds at a time as a kernel's arguments have room for.
  template <class Run>
  Tensor boxes(const Tensor& like, const Run& run) const {
    const int64_t thresholds = search.thresholds(), at_once = search.levels ? thresholds : kMostRelative;
    Tensor out = empty_on(like, {search.M * thresholds, 4}, ScalarType::Int);
    for (int64_t begin = 0; search.M > 0 && begin < thresholds; begin += at_once) {
      BoxArguments part = arguments;
      part.begin = static_cast<int32_t>(begin);
      part.end = static_cast<int32_t>(std::min(begin + at_once, thresholds));
      Relative values{};
      if (!search.levels)
        std::copy(search.relative.begin() + part.begin, search.relative.begin() + part.end, values.thresholds);
      run(search.levels ? search.levels->const_data_ptr<float>() : nullptr, values, out.mutable_data_ptr<int32_t>(),
          part);
    }
    return out;
  }
};

Tensor boxes(const Tensor& coarse, std::optional<Tensor> levels, std::vector<double> thresholds, int64_t height,
             int64_t width, bool relu, std::string mode, int64_t connectivity, std::string largest) {
  const Tensor maps = checked_float_maps(coarse);
  const Launch launch(coarse);
  const Search search(maps, levels, thresholds, height, width, relu, mode, connectivity, largest, maps.size(0),
                      maps.size(1), maps.size(2));
  const BoxLaunch plan(launch, maps, search, 0);
  return plan.boxes(maps, [&](const float* absolute, const Relative& relative, int32_t* out, const BoxArguments& a) {
    launch("boxes", search.bicubic ? boxes_kernel<kThreads, true> : boxes_kernel<kThreads, false>, plan.grid, kThreads,
           plan.shared, maps.const_data_ptr<float>(), absolute, relative, out, a);
  });
}

template <class In>
Tensor launch_class_boxes(const Launch& launch, const Search& search, const Layout& layout, const Tensor& weights,
                          Picture picture) {
  const int64_t C = weights.size(1);
  const BoxLaunch plan(launch, weights, search,
                       class_map_space(layout.positions()) * static_cast<int64_t>(sizeof(float)));
  const int64_t unheld = plan.arguments.map_bytes > 0 ? 0 : search.M * layout.positions();
  Tensor maps = empty_on(weights, {unheld}, ScalarType::Float);
  const auto kernel = picture.pixels == nullptr ? (search.bicubic ? class_boxes_kernel<kThreads, true, false, In>
                                                                  : class_boxes_kernel<kThreads, false, false, In>)
                                                : (search.bicubic ? class_boxes_kernel<kThreads, true, true, In>
                                                                  : class_boxes_kernel<kThreads, false, true, In>);
  return plan.boxes(weights, [&](const float* absolute, const Relative& relative, int32_t* out, const BoxArguments& a) {
    launch("class_boxes", kernel, plan.grid, kThreads, plan.shared,
           static_cast<const In*>(layout.tensor.const_data_ptr()), weights.const_data_ptr<float>(),
           maps.mutable_data_ptr<float>(), absolute, relative, out, C, layout.channels(), layout.channels_last, a,
           a.begin == 0 ? picture : Picture{});
  });
}

// Boxes, and the pictures in which they were found [M, H, W] if they are wanted.
Tensor find_class_boxes(const Tensor& features, const Tensor& weights, const Search& search, const Tensor* pictures) {
  const Launch launch(features);
  const Picture picture{pictures ? pictures->mutable_data_ptr() : nullptr,
                        pictures && pictures->scalar_type() == ScalarType::Byte};
  return with_dtype<__half, __nv_bfloat16>(dtype_of(features), [&](auto type) {
    // There is no kernel for double, which the guard has turned away.
    using In = std::conditional_t<sizeof(typename decltype(type)::type) == 8, float, typename decltype(type)::type>;
    return launch_class_boxes<In>(launch, search, Layout(features), packed(weights), picture);
  });
}

Tensor class_boxes(const Tensor& features, const Tensor& weights, std::optional<Tensor> levels,
                   std::vector<double> thresholds, int64_t height, int64_t width, bool relu, std::string mode,
                   int64_t connectivity, std::string largest) {
  const Search search =
      checked_class_search(features, weights, levels, thresholds, height, width, relu, mode, connectivity, largest);
  return find_class_boxes(features, weights, search, nullptr);
}

std::tuple<Tensor, Tensor> class_boxes_and_maps(const Tensor& features, const Tensor& weights,
                                                std::optional<Tensor> levels, std::vector<double> thresholds,
                                                int64_t height, int64_t width, bool relu, std::string mode,
                                                int64_t connectivity, std::string largest, bool as_bytes) {
  const Search search =
      checked_class_search(features, weights, levels, thresholds, height, width, relu, mode, connectivity, largest);
  STD_TORCH_CHECK(search.thresholds() > 0, "class_boxes_and_maps: at least one threshold");
  const Tensor pictures =
      empty_on(features, {search.M, height, width}, as_bytes ? ScalarType::Byte : ScalarType::Float);
  return {find_class_boxes(features, weights, search, &pictures), pictures};
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) {
  m.impl("boxes", TORCH_BOX(&fastcam::boxes));
  m.impl("class_boxes", TORCH_BOX(&fastcam::class_boxes));
  m.impl("class_boxes_and_maps", TORCH_BOX(&fastcam::class_boxes_and_maps));
}
