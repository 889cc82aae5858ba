// Feeds the CPU kernels with sizes and values chosen to break them, for the sanitizers to look at: every input and
// output lies in a heap block of exactly its size. What a portable build finds, the others must find too.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "../../csrc/cpu/dispatch.h"

using namespace fastcam;

namespace {

std::mt19937 generator(1);

int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

template <class T>
T one_of(std::initializer_list<T> values) {
  return values.begin()[pick(0, static_cast<int64_t>(values.size()) - 1)];
}

// Kinds: noise, noise with odd values strewn in, few values, a constant.
template <class T>
std::vector<T> values(int64_t count) {
  using Limits = std::numeric_limits<T>;
  std::normal_distribution<double> normal;
  const int64_t kind = pick(0, 5);
  const T constant = one_of<T>({T(0), T(-1), T(0.3), Limits::max(), Limits::denorm_min()});
  std::vector<T> result(static_cast<size_t>(count));
  for (T& v : result) {
    v = kind == 5 ? constant : static_cast<T>(normal(generator));
    if (kind == 1) v = std::round(v);
    if (kind == 2 && pick(0, 9) == 0)
      v = one_of<T>({Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), T(-0.0), Limits::max(),
                     Limits::lowest(), Limits::min(), Limits::denorm_min(), -Limits::denorm_min()});
    if (kind == 3) v = (v > T(0) ? v : T(0)) / T(3);
  }
  return result;
}

std::vector<const Kernels*> builds() {
  std::vector<const Kernels*> found{&portable::kernels};
#ifdef __x86_64__
  __builtin_cpu_init();
  if (std::strcmp(kernels().name, "portable") != 0) found.push_back(&avx2::kernels);
  if (std::strcmp(kernels().name, "avx512") == 0) found.push_back(&avx512::kernels);
#endif
  return found;
}

// run(kernels, out) fills out, which must be the same bytes for all builds; NaN has many bit patterns and is skipped.
template <class T, class Run>
void same(const char* what, int64_t count, const Run& run) {
  std::vector<T> expected;
  for (const Kernels* k : builds()) {
    std::vector<T> out(static_cast<size_t>(count));
    run(*k, out.data());
    if (expected.empty()) expected = out;
    for (size_t i = 0; i < out.size(); ++i)
      if (out[i] != expected[i] && !(out[i] != out[i] && expected[i] != expected[i]))
        throw std::runtime_error(std::string(what) + " differs in " + k->name);
  }
}

void sums() {
  const int64_t K = pick(0, 40), Z = pick(1, 70);
  const auto a = values<float>(K * Z), g = values<float>(K * Z), w = values<float>(K);
  for (bool last : {false, true}) {
    const Features f{a.data(), DType::kFloat, last, K, Z};
    const int64_t begin = pick(0, Z), end = pick(begin, Z);
    same<float>("class_map", Z, [&](const Kernels& k, float* out) { k.class_map(f, w.data(), begin, end, out); });
    same<float>("product_map", Z,
                [&](const Kernels& k, float* out) { k.product_map(f, g.data(), begin % 2, begin, end, out); });
    for (Weighting rule : {Weighting::kGradCam, Weighting::kGradCamPlusPlus, Weighting::kXGradCam})
      same<float>("gradient_weights", K, [&](const Kernels& k, float* out) {
        std::vector<float> space(static_cast<size_t>(K));
        k.gradient_weights(f, g.data(), rule, 1e-6, 0, K, space.data(), out);
      });
  }
  // Any 16 bits are a number of the half types.
  std::vector<uint16_t> bits(static_cast<size_t>(K * Z));
  for (uint16_t& b : bits) b = static_cast<uint16_t>(pick(0, 65535));
  for (DType type : {DType::kHalf, DType::kBFloat16})
    same<float>("class_map of halves", Z, [&](const Kernels& k, float* out) {
      k.class_map({bits.data(), type, K % 2 == 0, K, Z}, w.data(), 0, Z, out);
    });
}

void maps() {
  const int64_t h = pick(1, 9), w = pick(1, 9), H = pick(1, 70), W = pick(1, 140);
  const bool relu = pick(0, 1), bicubic = pick(0, 1), bytes = pick(0, 1);
  const auto coarse = values<float>(h * w);
  const auto doubles = values<double>(h * w);
  const Normalize order = one_of({Normalize::kNone, Normalize::kAfter, Normalize::kBefore, Normalize::kBoth});
  const int64_t begin = pick(0, H), end = pick(begin, H);
  Arena taps;
  const auto single = make_upsampling<float>(taps, h, w, H, W, relu, bicubic);
  same<float>("heatmap", H * W, [&](const Kernels& k, float* out) {
    Arena arena;
    auto surface = make_surface(arena, single);
    k.heatmap.of_float(single, surface, coarse.data(), order, false, begin, end, out);
  });
  const auto wide = make_upsampling<double>(taps, h, w, H, W, relu, bicubic);
  same<uint8_t>("heatmap", H * W, [&](const Kernels& k, uint8_t* out) {
    Arena arena;
    auto surface = make_surface(arena, wide);
    if (bytes) k.heatmap.of_double(wide, surface, doubles.data(), order, true, begin, end, out);
  });
  const auto levels = values<float>(3);
  for (bool absolute : {false, true})
    for (Choice choice : {Choice{8, false}, Choice{4, false}, Choice{8, true}})
      same<int32_t>("boxes", 12, [&](const Kernels& k, int32_t* out) {
        Arena arena;
        auto surface = make_surface(arena, single);
        Room room = make_room(arena, H, W);
        k.boxes(single, surface, room, coarse.data(), levels.data(), 3, absolute, choice, out);
        for (int i = 0; i < 12; ++i)
          if (out[i] < 0 || out[i] > (i % 2 ? H : W)) throw std::runtime_error("a box outside the picture");
      });
}

void masks() {
  const int64_t H = pick(1, 40), W = pick(1, 200), density = pick(0, 10);
  std::vector<uint8_t> mask(static_cast<size_t>(H * W));
  for (uint8_t& v : mask) v = pick(0, 9) < density ? static_cast<uint8_t>(pick(1, 255)) : 0;
  for (int connectivity : {4, 8})
    for (bool fill : {false, true})
      same<int32_t>("components", 2 + H * W, [&](const Kernels& k, int32_t* out) {
        Arena arena;
        Room room = make_room(arena, H, W, fill);
        const int64_t begun = k.components(room, mask.data(), connectivity, fill);
        for (int64_t i = 0; i < begun; ++i)
          if (room.parent[i] == i) out[0] += 1, out[1] += room.components[i].area;
        if (fill) k.paint_runs(room, room.parent, out + 2);
      });
}

template <class T>
void curves() {
  const int64_t H = pick(1, 30), W = pick(1, 140);
  const auto map = values<T>(H * W);
  const std::vector<double> truths{0, 0, 1, 1, 2, 1, static_cast<double>(W), static_cast<double>(H)};
  same<int32_t>("curve", 1024, [&](const Kernels& k, int32_t* out) {
    Arena arena;
    const Levels levels = make_levels(arena, k, H, W, false);
    k.sort_levels.of(Type<T>())(levels, map.data());
    k.curve(levels, out);
  });
  same<double>("contours", 256, [&](const Kernels& k, double* out) {
    Arena arena;
    const Levels levels = make_levels(arena, k, H, W, true);
    k.sort_levels.of(Type<T>())(levels, map.data());
    k.contours(levels, truths.data(), 2, out);
  });
}

template <class T>
void histograms() {
  const int64_t count = one_of<int64_t>({1, 10, 49, 1000, 4096}), pixels = pick(1, 1000);
  const Bins bins{static_cast<int32_t>(count), 1.0 / static_cast<double>(count)};
  auto map = values<T>(pixels);
  const bool proper = pick(0, 1);  // scores in [0, 1] only
  for (T& v : map) {
    if (pick(0, 3) == 0) v = static_cast<T>(static_cast<double>(pick(0, count)) * bins.step);
    if (proper) v = v >= T(0) ? (v < T(1) ? v : T(1)) : T(0);
  }
  std::vector<uint8_t> mask(static_cast<size_t>(pixels));
  int64_t counted = 0;
  for (size_t i = 0; i < mask.size(); ++i) {
    mask[i] = one_of<uint8_t>({0, 0, 1, 1, 2, 255});
    counted += mask[i] < 2 && map[i] >= T(0) && map[i] <= T(3);
  }
  same<int64_t>("score_histogram", 2 * bins.all(), [&](const Kernels& k, int64_t* out) {
    std::vector<uint32_t> counters(static_cast<size_t>(kHistogramCopies * histogram_slots(bins)));
    k.score_histogram.of(Type<T>())(map.data(), mask.data(), pixels, bins, counters.data(), out);
    if (std::accumulate(out, out + 2 * bins.all(), int64_t{0}) != counted)
      throw std::runtime_error("score_histogram lost pixels");
  });
}

void refinements() {
  Affinity a{static_cast<int32_t>(pick(1, 20)),
             static_cast<int32_t>(pick(1, 140)),
             static_cast<int32_t>(pick(1, 4)),
             static_cast<int32_t>(pick(1, 8)),
             {}};
  for (int32_t i = 0; i < a.dilations; ++i) a.dilation[i] = static_cast<int32_t>(pick(1, 30));
  const Padded padded(a);
  const int64_t C = pick(1, 5);
  const auto image = values<float>(int64_t{a.channels} * a.H * a.W), maps = values<float>(C * a.H * a.W);
  same<float>("refine", C * padded.plane, [&](const Kernels& k, float* out) {
    std::vector<float> pixels(static_cast<size_t>(a.channels * padded.plane)), scales(pixels.size());
    std::vector<float> from(static_cast<size_t>(C * padded.plane));
    for (int64_t y = 0; y < a.H; ++y) {
      k.pad_row(a, padded, image.data(), a.channels, y, pixels.data());
      k.pad_row(a, padded, maps.data(), C, y, from.data());
    }
    for (int64_t y = 0; y < a.H; ++y) k.scale_row(a, padded, pixels.data(), y, scales.data());
    for (int64_t y = 0; y < a.H; ++y) k.refine_row(a, padded, pixels.data(), scales.data(), from.data(), C, y, out);
  });
}

void resizes() {
  const int64_t H = pick(1, 70), W = pick(1, 70), height = pick(1, 90), width = pick(1, 90);
  const int64_t top = pick(0, height - 1), left = pick(0, width - 1);
  const int64_t rows = pick(1, height - top), columns = pick(1, width - left);
  const bool columns_first = pick(0, 1);
  std::vector<uint8_t> picture(static_cast<size_t>(3 * H * W));
  for (uint8_t& v : picture) v = static_cast<uint8_t>(one_of<int64_t>({0, 255, pick(0, 255)}));
  same<uint8_t>("resize", 3 * rows * columns, [&](const Kernels& k, uint8_t* out) {
    resize_picture(k, picture.data(), H, W, height, width, top, left, rows, columns, columns_first, out);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const Arena held(true);  // so that the arenas of resize take a block of the heap for each array
  const int64_t rounds = argc > 1 ? std::atoll(argv[1]) : 400;
  for (int64_t i = 0; i < rounds; ++i) {
    sums();
    maps();
    masks();
    curves<float>();
    curves<double>();
    histograms<float>();
    histograms<double>();
    refinements();
    resizes();
  }
  std::printf("%lld rounds of CPU kernels (%zu builds)\n", static_cast<long long>(rounds), builds().size());
}
