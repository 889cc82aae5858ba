// Runs every operator on small random and adversarial inputs, for the sanitizers to look at. Results are held against a
// plain computation or another operator where that is short, and must not depend on the order of threads, on the
// number of blocks and on how much shared memory there is.
#include <cstdio>
#include <functional>

#include "launch.h"

namespace {

using fastcam::Results;
using torch::stable::ScalarType;
using torch::stable::Sizes;
using torch::stable::Tensor;

constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16};
const std::string kModes[] = {"bilinear", "bicubic"};

uint32_t state = 1;

double uniform() {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) * 0x1p-24;
}

// Values of a type, cut off rather than rounded.
Tensor filled(Sizes sizes, ScalarType type, const std::function<double(int64_t)>& value) {
  Tensor t(std::move(sizes), type);
  for (int64_t i = 0; i < t.numel(); ++i) {
    const double v = value(i);
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(v));
    switch (type) {
      case ScalarType::Double: t.mutable_data_ptr<double>()[i] = v; break;
      case ScalarType::Float: t.mutable_data_ptr<float>()[i] = static_cast<float>(v); break;
      case ScalarType::BFloat16: t.mutable_data_ptr<uint16_t>()[i] = static_cast<uint16_t>(bits >> 16); break;
      case ScalarType::Half: {  // normal numbers only
        const uint32_t magnitude = ((bits & 0x7fffffffu) >> 13) - (112u << 10);
        t.mutable_data_ptr<uint16_t>()[i] = static_cast<uint16_t>((bits >> 16 & 0x8000u) | magnitude);
        break;
      }
      case ScalarType::Long: t.mutable_data_ptr<int64_t>()[i] = static_cast<int64_t>(v); break;
      default: t.mutable_data_ptr<uint8_t>()[i] = static_cast<uint8_t>(v);
    }
  }
  return t;
}

Tensor random(Sizes sizes, ScalarType type = ScalarType::Float) {
  return filled(std::move(sizes), type, [](int64_t) { return (uniform() + 0.01) * (uniform() < 0.5 ? -1 : 1); });
}

Tensor channels_last(const Tensor& memory) {
  const int64_t h = memory.size(1), w = memory.size(2), K = memory.size(3);
  return {memory, {memory.size(0), K, h, w}, {h * w * K, 1, w * K, K}};
}

// An operator by its name, with the arguments that csrc/ops.cpp lists.
struct Operator {
  std::string name;
  template <class... Arguments>
  Results operator()(const Arguments&... arguments) const {
    return fastcam::library.operators.at(name)({fastcam::Value(arguments)...});
  }
};

void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

bool equal(const Tensor& a, const Tensor& b) {
  const auto bytes = static_cast<size_t>(a.numel() * torch::stable::size_of(a.scalar_type()));
  return a.sizes() == b.sizes() && std::memcmp(a.const_data_ptr(), b.const_data_ptr(), bytes) == 0;
}

bool equal(const Results& a, const Results& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) { return equal(x, y); });
}

// f() on devices and in orders of threads that must not matter. `little` lists sizes of shared memory that are not
// enough for everything.
template <class F>
auto everywhere(const std::string& what, std::initializer_list<int64_t> little, const F& f) {
  uint32_t seed = 0;
  const auto on = [&](int64_t multiprocessors, int64_t shared) {
    fastcam::limits = {multiprocessors, shared};
    emulation::seed = seed++;
    return f();
  };
  const auto result = on(1, 225 << 10);
  require(equal(on(1, 225 << 10), result), what + ": another order of threads");
  require(equal(on(50, 225 << 10), result), what + ": more blocks");
  for (const int64_t shared : little) require(equal(on(2, shared), result), what + ": less shared memory");
  return result;
}

void sums() {
  const Operator class_map{"class_map"};
  const Operator gradient_map{"gradient_map"};
  for (const ScalarType type : kTypes) {
    const ScalarType sum = type == ScalarType::Double ? type : ScalarType::Float;
    for (const auto& [K, h, w] : {std::tuple{40, 5, 5}, std::tuple{72, 4, 6}, std::tuple{33, 2, 1}}) {
      const Tensor weights = random({2, 2, K}, sum);
      for (const bool last : {false, true}) {
        const Sizes sizes = last ? Sizes{2, h, w, K} : Sizes{2, K, h, w};
        const Tensor a = random(sizes, type), g = random(sizes, type);
        const Tensor x = last ? channels_last(a) : a, y = last ? channels_last(g) : g;
        const Tensor map = everywhere("class_map", {}, [&] { return class_map(x, weights); })[0];
        if (type == ScalarType::Double) {
          double expected = 0;
          for (int64_t k = 0; k < K; ++k)
            expected += weights.const_data_ptr<double>()[K + k] * x.const_data_ptr<double>()[k * x.stride(1)];
          require(std::abs(map.const_data_ptr<double>()[h * w] - expected) < 1e-12, "class_map");
        }
        for (const char* weighting : {"gradcam", "gradcam++", "xgradcam", "layercam", "hirescam"})
          everywhere(weighting, {}, [&] { return gradient_map(x, y, weighting, 1e-6); });
      }
    }
  }
}

// Coarse maps with and without a location.
Tensor coarse_maps(int64_t h, int64_t w, ScalarType type) {
  return filled({9, h, w}, type, [&](int64_t i) {
    const int64_t m = i / (h * w), at = i % (h * w);
    const double v = 2 * uniform() - 1;
    if (m == 0) return v;
    if (m == 1) return 0.3;
    if (m == 2) return at == 0 ? std::nan("") : v;
    if (m == 3) return at == 1 ? -INFINITY : v;
    if (m == 4) return std::round(2 * v);
    if (m == 5) return v * 1e-42;
    if (m == 6) return v * 3e38;
    if (m == 7) return at % 2 ? 1.0 : -0.0;
    return v < 0.6 ? 0.0 : v;
  });
}

void maps() {
  const Operator heatmap{"heatmap"};
  for (const auto& [H, W] : {std::pair{40, 36}, std::pair{17, 65}, std::pair{1, 70}, std::pair{70, 1}})
    for (const std::string& mode : kModes)
      for (const ScalarType type : {ScalarType::Float, ScalarType::Double})
        for (const char* normalize : {"none", "after", "before", "both"})
          for (const bool as_bytes : {false, true})
            everywhere("heatmap", {64}, [&, coarse = coarse_maps(5, 7, type)] {
              return heatmap(coarse, H, W, true, normalize, mode, as_bytes);
            });
}

struct Choice {
  int64_t connectivity;
  const char* largest;
};
constexpr Choice kChoices[] = {{8, "pixels"}, {4, "pixels"}, {8, "contour"}};

void boxes_of_maps() {
  const Operator boxes{"boxes"};
  const Operator class_boxes{"class_boxes"};
  const Operator class_map{"class_map"};
  const std::vector<double> relative{0.2, 0.5, 0.8}, none;
  for (const auto& [H, W] : {std::pair{40, 36}, std::pair{17, 65}, std::pair{1, 70}})
    for (const std::string& mode : kModes)
      for (const auto& [connectivity, largest] : kChoices) {
        const Tensor coarse = coarse_maps(5, 7, ScalarType::Float), absolute = random({9, 2});
        everywhere("boxes", {1500},
                   [&] { return boxes(coarse, std::nullopt, relative, H, W, true, mode, connectivity, largest); });
        everywhere("boxes", {1500},
                   [&] { return boxes(coarse, absolute, none, H, W, false, mode, connectivity, largest); });
        const Tensor features = random({2, 40, 5, 7}, ScalarType::Half), weights = random({2, 2, 40});
        const Results fused = everywhere("class_boxes", {5000}, [&] {
          return class_boxes(features, weights, std::nullopt, relative, H, W, true, mode, connectivity, largest);
        });
        fastcam::limits = {};
        const Tensor sums(class_map(features, weights)[0], {4, 5, 7}, {35, 7, 1});
        require(equal(fused, boxes(sums, std::nullopt, relative, H, W, true, mode, connectivity, largest)),
                "class_boxes");
      }
}

// Pictures of 0 and 1: noise, a checkerboard, a comb, rings, a spiral of diagonals.
Tensor masks(int64_t H, int64_t W, ScalarType type) {
  return filled({7, H, W}, type, [&](int64_t i) {
    const int64_t m = i / (H * W), y = i / W % H, x = i % W, ring = std::min({x, y, W - 1 - x, H - 1 - y});
    switch (m) {
      case 0: return uniform() < 0.3 ? 1.0 : 0.0;
      case 1: return uniform() < 0.55 ? 1.0 : 0.0;
      case 2: return uniform() < 0.8 ? 1.0 : 0.0;
      case 3: return (x + y) % 2 ? 1.0 : 0.0;
      case 4: return x % 2 == 0 || y == H - 1 ? 1.0 : 0.0;
      case 5: return ring % 2 == 0 ? 1.0 : 0.0;
      default: return (y % 2 == 0 || (y % 4 == 1 ? x == W - 1 : x == 0)) ? 1.0 : 0.0;
    }
  });
}

// Pixels of the component at i, which are cleared.
int fill(uint8_t* mask, int64_t H, int64_t W, int64_t i, int64_t connectivity) {
  if (mask[i] == 0) return 0;
  mask[i] = 0;
  int area = 1;
  std::vector<int64_t> stack{i};
  while (!stack.empty()) {
    const int64_t y = stack.back() / W, x = stack.back() % W;
    stack.pop_back();
    for (int64_t v = std::max<int64_t>(y - 1, 0); v <= std::min(y + 1, H - 1); ++v)
      for (int64_t u = std::max<int64_t>(x - 1, 0); u <= std::min(x + 1, W - 1); ++u)
        if ((connectivity == 8 || u == x || v == y) && mask[v * W + u] != 0) {
          mask[v * W + u] = 0;
          ++area;
          stack.push_back(v * W + u);
        }
  }
  return area;
}

void masks_and_curves() {
  const Operator boxes{"boxes"};
  const Operator components{"components"};
  const Operator box_curves{"box_curves"};
  const Operator iou_curves{"iou_curves"};
  const std::vector<double> none;
  // More masks than there is room for in global memory, so that blocks take turns.
  const Tensor small = filled({300, 5, 5}, ScalarType::Float, [](int64_t) { return std::round(uniform()); });
  const Tensor levels = filled({300, 1}, ScalarType::Float, [](int64_t) { return 0.5; });
  everywhere("boxes of many masks", {64},
             [&] { return boxes(small, levels, none, 5, 5, false, "bilinear", 8, "pixels"); });
  for (const auto& [H, W] : {std::pair{20, 65}, std::pair{33, 31}, std::pair{1, 70}, std::pair{40, 1}}) {
    const Tensor bytes = masks(H, W, ScalarType::Byte), floats = masks(H, W, ScalarType::Float);
    const Tensor level = filled({7, 1}, ScalarType::Float, [](int64_t) { return 0.5; });
    for (const auto& [connectivity, largest] : kChoices)
      everywhere("boxes of masks", {1500, 11000},
                 [&] { return boxes(floats, level, none, H, W, false, "bilinear", connectivity, largest); });
    for (const int64_t connectivity : {4, 8}) {
      const Results all =
          everywhere("components", {}, [&] { return components(bytes, connectivity, std::nullopt, 1, false, false); });
      for (const bool fill : {false, true})
        everywhere("labels", {}, [&] { return components(bytes, connectivity, 2, 3, fill, true); });
      Tensor rest(Sizes{7, H, W}, ScalarType::Byte);
      std::memcpy(rest.mutable_data_ptr(), bytes.const_data_ptr(), static_cast<size_t>(rest.numel()));
      int64_t found = 0;
      for (int64_t i = 0; i < rest.numel(); ++i) {
        uint8_t* mask = rest.mutable_data_ptr<uint8_t>() + i / (H * W) * (H * W);
        const int area = fill(mask, H, W, i % (H * W), connectivity);
        if (area == 0) continue;
        require(found < all[1].numel() && all[1].const_data_ptr<int32_t>()[found] == area, "areas");
        ++found;
      }
      require(found == all[1].numel(), "number of components");
    }
    const Tensor noise = filled({2, H, W}, ScalarType::Double, [](int64_t) { return uniform(); });
    const Tensor steps = filled({2, H, W}, ScalarType::Float, [](int64_t) { return std::floor(4 * uniform()) / 3; });
    const Tensor truths = filled({3, 4}, ScalarType::Double, [](int64_t i) { return i % 4 < 2 ? 2 : 17.5; });
    const Tensor starts = filled({3}, ScalarType::Long, [](int64_t i) { return i == 0 ? 0 : 3; });
    for (const Tensor& scores : {noise, steps, floats}) {
      const Tensor first(scores, {2, H, W}, scores.strides());
      everywhere("box_curves", {1500, 26000}, [&] { return box_curves(first); });
      for (const bool all : {false, true})
        everywhere("iou_curves", {1500, 26000}, [&] { return iou_curves(first, truths, starts, all); });
    }
  }
}

void histograms() {
  const Operator score_histograms{"score_histograms"};
  for (const ScalarType type : {ScalarType::Float, ScalarType::Double})
    for (const auto& [N, H, W] : {std::tuple{1, 70, 65}, std::tuple{3, 20, 70}, std::tuple{40, 1, 9}}) {
      const int64_t bins = 10, pixels = int64_t{H} * W;
      const Tensor maps = filled({N, H, W}, type, [&](int64_t i) {
        const double v = uniform();
        if (i % 7 == 0) return static_cast<double>(static_cast<float>(std::round(10 * v))) / 10;
        if (i % 31 == 0) return i % 2 ? std::nan("") : 1e30;
        return i / W % 3 == 0 ? 0.0 : 4 * v - 0.5;
      });
      const Tensor masks = filled({N, H, W}, ScalarType::Byte, [](int64_t) {
        const double v = uniform();
        return v < 0.4 ? 0.0 : v < 0.8 ? 1.0 : 255.0;
      });
      const Tensor found = everywhere("score_histograms", {}, [&] { return score_histograms(maps, masks, bins); })[0];
      std::vector<int64_t> expected(static_cast<size_t>(found.numel()));
      for (int64_t i = 0; i < maps.numel(); ++i) {
        const double v =
            type == ScalarType::Double ? maps.const_data_ptr<double>()[i] : maps.const_data_ptr<float>()[i];
        const uint8_t kind = masks.const_data_ptr<uint8_t>()[i];
        if (!(v >= 0 && v <= 3) || kind > 1) continue;
        int64_t bin = v >= 2 ? bins + 1 : v >= 1 ? bins : 0;
        while (v < 1 && bin + 1 < bins && v >= static_cast<double>(bin + 1) * (1.0 / static_cast<double>(bins))) ++bin;
        ++expected[static_cast<size_t>((i / pixels * 2 + kind) * (bins + 2) + bin)];
      }
      require(std::equal(expected.begin(), expected.end(), found.const_data_ptr<int64_t>()), "score_histograms");
    }
}

void refinement() {
  const Operator refine{"refine"};
  const std::vector<double> dilations{1, 3, 20};
  for (const auto& [N, C, K, H, W] :
       {std::tuple{2, 5, 3, 9, 40}, std::tuple{1, 1, 1, 1, 70}, std::tuple{1, 4, 4, 33, 1}}) {
    const Tensor maps = filled({N, C, H, W}, ScalarType::Float, [](int64_t) { return uniform(); });
    const Tensor images = random({N, K, H, W});
    for (const int64_t iterations : {1, 2, 5}) {
      const Tensor found = everywhere("refine", {}, [&] { return refine(maps, images, dilations, iterations); })[0];
      for (int64_t i = 0; i < found.numel(); ++i)  // means of values in [0, 1)
        require(found.const_data_ptr<float>()[i] >= 0 && found.const_data_ptr<float>()[i] <= 1, "refine");
    }
  }
}

}  // namespace

int main() try {
  sums();
  maps();
  boxes_of_maps();
  masks_and_curves();
  histograms();
  refinement();
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
