// Arguments of the operators, guarded once for both backends: what passes can be read and written safely, whoever
// calls. The errors that users see are raised in fastcam/ops.py, in better words. What only one backend limits (GPU
// grids, 32-bit indices) it checks beside its launch.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "affinity.h"
#include "score_bins.h"
#include "torch.h"

namespace fastcam {

inline bool on_one_device(const Tensor& a, const Tensor& b) { return a.get_device_index() == b.get_device_index(); }

inline bool is_float_or_double(const Tensor& t) {
  return t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double;
}

// Pixels of a picture are counted in 32 bits.
constexpr int64_t kMostPixels = int64_t{1} << 30;

inline bool is_size(int64_t height, int64_t width) { return height > 0 && width > 0 && height < kMostPixels / width; }

// features [N, K, h, w] of any floating type, weights [N, C, K] of the type of their sums.
inline void check_weights(const Tensor& features, const Tensor& weights, const char* name) {
  STD_TORCH_CHECK(features.dim() == 4 && weights.dim() == 3 && weights.size(0) == features.size(0) &&
                      weights.size(2) == features.size(1) && weights.scalar_type() == accumulation_type(features) &&
                      on_one_device(features, weights),
                  name, ": features [N, K, h, w] and weights [N, C, K] that match");
}

// class_boxes has no kernels for double: weights are float, features float or of a half type.
inline void check_single_weights(const Tensor& features, const Tensor& weights) {
  check_weights(features, weights, "class_boxes");
  STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Float, "class_boxes: float or half types");
}

// Both [N, K, h, w] of one type.
inline void check_gradients(const Tensor& features, const Tensor& gradients) {
  STD_TORCH_CHECK(features.dim() == 4 && gradients.sizes().equals(features.sizes()) &&
                      gradients.scalar_type() == features.scalar_type() && on_one_device(features, gradients),
                  "gradient_map: gradients do not match features");
}

// coarse [M, h, w] float or double, and the size of the heatmaps.
inline void check_coarse(const Tensor& coarse, int64_t height, int64_t width) {
  STD_TORCH_CHECK(coarse.dim() == 3 && is_float_or_double(coarse) && height > 0 && width > 0,
                  "heatmap: coarse [M, h, w] float or double, and a positive size");
  STD_TORCH_CHECK(coarse.size(0) == 0 || (coarse.size(1) > 0 && coarse.size(2) > 0), "heatmap: empty maps");
}

// coarse [M, h, w] float.
inline Tensor checked_float_maps(const Tensor& coarse) {
  STD_TORCH_CHECK(coarse.dim() == 3 && coarse.scalar_type() == ScalarType::Float, "boxes: coarse [M, h, w] float");
  return packed(coarse);
}

// maps [N, H, W] float or double, whose boxes are made of 16-bit coordinates.
inline Tensor checked_maps(const Tensor& maps, const char* name) {
  STD_TORCH_CHECK(maps.dim() == 3 && is_float_or_double(maps) && is_size(maps.size(1), maps.size(2)) &&
                      maps.size(1) < 65536 && maps.size(2) < 65536,
                  name, ": maps [N, H, W] float or double");
  return packed(maps);
}

// truths [M, 4] double; those of map n are rows starts[n] up to starts[n + 1].
inline void check_truths(const Tensor& maps, const Tensor& truths, const Tensor& starts) {
  STD_TORCH_CHECK(truths.dim() == 2 && truths.size(1) == 4 && truths.scalar_type() == ScalarType::Double &&
                      starts.dim() == 1 && starts.size(0) == maps.size(0) + 1 &&
                      starts.scalar_type() == ScalarType::Long && on_one_device(maps, truths) &&
                      on_one_device(maps, starts),
                  "iou_curves: truth boxes [M, 4] double and starts [N + 1] int64");
}

// masks [N, H, W] of bytes, 0 or not.
inline void check_masks(const Tensor& masks, const std::optional<int64_t>& max_components) {
  STD_TORCH_CHECK(masks.dim() == 3 && masks.scalar_type() == ScalarType::Byte &&
                      is_size(masks.size(1), masks.size(2)) && max_components.value_or(1) > 0,
                  "components: masks [N, H, W] of bytes, and at least one component to keep");
}

// maps [N, H, W] float or double, masks [N, H, W] of bytes: 0 background, 1 object, others do not count.
inline Bins checked_bins(const Tensor& maps, const Tensor& masks, int64_t count) {
  STD_TORCH_CHECK(maps.dim() == 3 && is_float_or_double(maps) && masks.dim() == 3 &&
                      masks.scalar_type() == ScalarType::Byte && maps.sizes().equals(masks.sizes()) &&
                      on_one_device(maps, masks) && count > 0 && count <= kMostBins,
                  "score_histograms: maps [N, H, W] float or double, masks [N, H, W] of bytes, bins");
  STD_TORCH_CHECK(maps.size(1) * maps.size(2) < kMostPixels, "score_histograms: size");
  return {static_cast<int32_t>(count), 1.0 / static_cast<double>(count)};
}

// maps [N, C, H, W] and images [N, K, H, W], both float, the dilations at which pixels have neighbours, iterations.
inline Affinity checked_affinity(const Tensor& maps, const Tensor& images, const std::vector<int64_t>& dilations,
                                 int64_t iterations) {
  STD_TORCH_CHECK(maps.dim() == 4 && images.dim() == 4 && maps.scalar_type() == ScalarType::Float &&
                      images.scalar_type() == ScalarType::Float && maps.size(0) == images.size(0) &&
                      maps.size(2) == images.size(2) && maps.size(3) == images.size(3) &&
                      is_size(maps.size(2), maps.size(3)) && images.size(1) > 0 && images.size(1) <= kMostChannels &&
                      on_one_device(maps, images),
                  "refine: maps [N, C, H, W] and images [N, K, H, W], both float, that match");
  STD_TORCH_CHECK(!dilations.empty() && dilations.size() <= kMostDilations && iterations > 0, "refine: dilations");
  Affinity a{static_cast<int32_t>(maps.size(2)),
             static_cast<int32_t>(maps.size(3)),
             static_cast<int32_t>(images.size(1)),
             static_cast<int32_t>(dilations.size()),
             {}};
  for (size_t i = 0; i < dilations.size(); ++i) {
    STD_TORCH_CHECK(dilations[i] > 0 && dilations[i] <= kMostReach, "refine: dilations");
    a.dilation[i] = static_cast<int32_t>(dilations[i]);
  }
  return a;
}

// What boxes and class_boxes look for in M coarse maps [h, w] that become pictures [H, W].
struct Search {
  int64_t M, h, w, H, W;
  bool relu, bicubic;
  Choice choice;
  std::optional<Tensor> levels;  // [M, T] absolute thresholds
  std::vector<float> relative;   // or [T] relative to the range of each map

  Search(const Tensor& like, const std::optional<Tensor>& levels_, const std::vector<double>& thresholds_,
         int64_t height, int64_t width, bool relu_, const std::string& mode, int64_t connectivity,
         const std::string& largest, int64_t maps, int64_t h_, int64_t w_)
      : M(maps),
        h(h_),
        w(w_),
        H(height),
        W(width),
        relu(relu_),
        bicubic(mode == "bicubic"),
        choice{static_cast<int>(connectivity), largest == "contour"},
        relative(thresholds_.begin(), thresholds_.end()) {
    STD_TORCH_CHECK(is_size(H, W), "boxes: size");
    STD_TORCH_CHECK(M == 0 || (h > 0 && w > 0), "boxes: empty maps");
    if (!levels_) return;
    STD_TORCH_CHECK(levels_->scalar_type() == ScalarType::Float && levels_->dim() == 2 && levels_->size(0) == M &&
                        on_one_device(*levels_, like),
                    "boxes: levels [M, T] float");
    levels = packed(*levels_);
  }

  int64_t thresholds() const { return levels ? levels->size(1) : static_cast<int64_t>(relative.size()); }
};

// The same for class_boxes, in the class maps of features [N, K, h, w] under weights [N, C, K].
inline Search checked_class_search(const Tensor& features, const Tensor& weights, const std::optional<Tensor>& levels,
                                   const std::vector<double>& thresholds, int64_t height, int64_t width, bool relu,
                                   const std::string& mode, int64_t connectivity, const std::string& largest) {
  check_single_weights(features, weights);
  return {features,
          levels,
          thresholds,
          height,
          width,
          relu,
          mode,
          connectivity,
          largest,
          features.size(0) * weights.size(1),
          features.size(2),
          features.size(3)};
}

}  // namespace fastcam
