// CPU operator of heatmaps. Images are spread over threads, and rows of them where there are fewer images than threads.
#include "../arguments.h"
#include "dispatch.h"

namespace fastcam {
namespace {

template <class T>
struct Work {
  Arena arena{true};
  Surface<T> surface;
  explicit Work(const Upsampling<T>& u) : surface(make_surface(arena, u)) {}
};

Tensor heatmap(const Tensor& coarse, int64_t height, int64_t width, bool relu, std::string normalize, std::string mode,
               bool as_bytes) {
  check_coarse(coarse, height, width);
  const Tensor maps = packed(coarse);
  const int64_t M = maps.size(0), h = maps.size(1), w = maps.size(2);
  Tensor out = empty_on(maps, {M, height, width}, as_bytes ? ScalarType::Byte : maps.scalar_type());
  if (M == 0) return out;
  const Normalize order = normalize_of(normalize);
  with_float_or_double(maps, [&](auto type) {
    using T = typename decltype(type)::type;
    Arena arena;
    const Upsampling<T> u = make_upsampling<T>(arena, h, w, height, width, relu, mode == "bicubic");
    const int64_t bytes = height * width * (as_bytes ? 1 : static_cast<int64_t>(sizeof(T)));
    const T* from = maps.const_data_ptr<T>();
    char* to = static_cast<char*>(out.mutable_data_ptr());
    const auto kernel = kernels().heatmap.of(type);
    for_parts(
        M, height, [&] { return Work<T>(u); },
        [&](Work<T>& work, int64_t n, int64_t begin, int64_t end) {
          kernel(u, work.surface, from + n * h * w, order, as_bytes, begin, end, to + n * bytes);
        });
  });
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("heatmap", TORCH_BOX(&fastcam::heatmap)); }
