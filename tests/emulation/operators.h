// The operators of csrc/cuda/*.cu by name, with the signatures that csrc/ops.cpp declares.
#pragma once

#include "launch.h"

namespace operators {

using torch::stable::Tensor;
using Table = std::tuple<Tensor, Tensor, Tensor>;

using ClassMap = Tensor(const Tensor& features, const Tensor& weights);
using GradientMap = Tensor(const Tensor& features, const Tensor& gradients, std::string weighting, double eps);
using Heatmap = Tensor(const Tensor& coarse, int64_t height, int64_t width, bool relu, std::string normalize,
                       std::string mode, bool as_bytes);
using Boxes = Tensor(const Tensor& coarse, std::optional<Tensor> levels, std::vector<double> thresholds, int64_t height,
                     int64_t width, bool relu, std::string mode, int64_t connectivity, std::string largest);
using ClassBoxes = Tensor(const Tensor& features, const Tensor& weights, std::optional<Tensor> levels,
                          std::vector<double> thresholds, int64_t height, int64_t width, bool relu, std::string mode,
                          int64_t connectivity, std::string largest);
using BoxCurves = Tensor(const Tensor& maps);
using IouCurves = Tensor(const Tensor& maps, const Tensor& boxes, const Tensor& starts, bool all_contours);
using ScoreHistograms = Tensor(const Tensor& maps, const Tensor& masks, int64_t bins);
using Components = Table(const Tensor& masks, int64_t connectivity, std::optional<int64_t> max_components);

template <class Signature>
Signature* find(const std::string& name) {
  return std::any_cast<Signature*>(fastcam::library.operators.at(name));
}

}  // namespace operators
