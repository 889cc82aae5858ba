// CPU operators that find the box of the largest component above a threshold. Maps are spread over threads, and
// thresholds of them where there are fewer maps than threads; results are integers, which no order can change.
#include <optional>
#include <tuple>
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

// coarse_of(m, space) gives the coarse map m, which may be made in space [h, w]. The pictures that are searched may be
// wanted too: [M, H, W] normalised by their minimum and maximum, of floats or bytes.
template <class CoarseOf>
Tensor search_maps(const Search& s, const Tensor& like, const CoarseOf& coarse_of, const Tensor* pictures = nullptr) {
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
        const float* coarse = coarse_of(m, work.made);
        k.boxes(u, work.surface, work.room, coarse, own, end - begin, s.levels.has_value(), s.choice,
                to + (m * thresholds + begin) * 4);
        if (!pictures) return;
        const bool as_bytes = pictures->scalar_type() == ScalarType::Byte;
        const int64_t offset = m * s.H * s.W * (as_bytes ? 1 : static_cast<int64_t>(sizeof(float)));
        k.heatmap.of(Type<float>())(u, work.surface, coarse, Normalize::kAfter, as_bytes, begin * s.H / thresholds,
                                    end * s.H / thresholds, static_cast<char*>(pictures->mutable_data_ptr()) + offset);
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

Tensor find_class_boxes(const Tensor& features, const Tensor& weights, const Search& search, const Tensor* pictures) {
  const Layout layout(features);
  const Tensor w = packed(weights);
  const int64_t C = w.size(1), K = layout.channels();
  const float* weight = w.const_data_ptr<float>();
  const Kernels& k = kernels();
  const auto coarse_of = [&](int64_t m, float* space) -> const float* {
    k.class_map(layout.image(m / C), weight + m * K, 0, layout.positions(), space);
    return space;
  };
  return search_maps(search, features, coarse_of, pictures);
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

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) {
  m.impl("boxes", TORCH_BOX(&fastcam::boxes));
  m.impl("class_boxes", TORCH_BOX(&fastcam::class_boxes));
  m.impl("class_boxes_and_maps", TORCH_BOX(&fastcam::class_boxes_and_maps));
}
