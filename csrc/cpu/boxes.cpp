// CPU operators that find the box of the largest component above a threshold. Maps are spread over threads, and
// thresholds of them where there are fewer maps than threads; results are integers, which no order can change.
#include <optional>
#include <vector>

#include "../arguments.h"
#include "dispatch.h"

namespace fastcam {
namespace {

struct Work {
  Arena arena{true};
  float* made;  // [h, w] room for a coarse map that the operator makes itself
  Surface<float> surface;
  Room room;
  explicit Work(const Upsampling<float>& u)
      : made(arena.array<float>(u.h * u.w)), surface(make_surface(arena, u)), room(make_room(arena, u.H, u.W)) {}
};

// coarse_of(m, space) gives the coarse map m, which may be made in space [h, w].
template <class CoarseOf>
Tensor search_maps(const Search& s, const Tensor& like, const CoarseOf& coarse_of) {
  const int64_t thresholds = s.thresholds();
  Tensor out = empty_on(like, {s.M * thresholds, 4}, ScalarType::Int);
  if (s.M == 0) return out;
  int32_t* to = out.mutable_data_ptr<int32_t>();
  const float* levels = s.levels ? s.levels->const_data_ptr<float>() : s.relative.data();
  Arena arena;
  const Upsampling<float> u = make_upsampling<float>(arena, s.h, s.w, s.H, s.W, s.relu, s.bicubic);
  const Kernels& k = kernels();
  for_parts(
      s.M, thresholds, [&] { return Work(u); },
      [&](Work& work, int64_t m, int64_t begin, int64_t end) {
        const float* own = levels + (s.levels ? m * thresholds : 0) + begin;
        k.boxes(u, work.surface, work.room, coarse_of(m, work.made), own, end - begin, s.levels.has_value(), s.choice,
                to + (m * thresholds + begin) * 4);
      });
  return out;
}

Tensor boxes(const Tensor& coarse, std::optional<Tensor> levels, std::vector<double> thresholds, int64_t height,
             int64_t width, bool relu, std::string mode, int64_t connectivity, std::string largest) {
  const Tensor maps = checked_float_maps(coarse);
  const Search search(maps, levels, thresholds, height, width, relu, mode, connectivity, largest, maps.size(0),
                      maps.size(1), maps.size(2));
  const float* from = maps.const_data_ptr<float>();
  return search_maps(search, maps, [&](int64_t m, float*) { return from + m * search.h * search.w; });
}

Tensor class_boxes(const Tensor& features, const Tensor& weights, std::optional<Tensor> levels,
                   std::vector<double> thresholds, int64_t height, int64_t width, bool relu, std::string mode,
                   int64_t connectivity, std::string largest) {
  check_single_weights(features, weights);
  const Layout layout(features);
  const Tensor w = packed(weights);
  const int64_t C = w.size(1), K = layout.channels();
  const Search search(features, levels, thresholds, height, width, relu, mode, connectivity, largest,
                      layout.images() * C, features.size(2), features.size(3));
  const float* weight = w.const_data_ptr<float>();
  const Kernels& k = kernels();
  return search_maps(search, features, [&](int64_t m, float* space) -> const float* {
    k.class_map(layout.image(m / C), weight + m * K, 0, layout.positions(), space);
    return space;
  });
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) {
  m.impl("boxes", TORCH_BOX(&fastcam::boxes));
  m.impl("class_boxes", TORCH_BOX(&fastcam::class_boxes));
}
