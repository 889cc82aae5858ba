// The kernels of class maps and gradient maps (sums.inl). Features, weights, gradients and results are untyped: their
// types follow from Features::dtype.
#pragma once

#include "../options.h"

namespace fastcam {

struct SumsKernels {
  // out [Z] = sum_k weights[k] * features[k] at positions [begin, end); weights and out are double for double features,
  // else float.
  void (*class_map)(const Features&, const void* weights, int64_t begin, int64_t end, void* out);
  // weights [K] of channels [begin, end); gradients have the features' layout and dtype; sums [K] is work space.
  void (*gradient_weights)(const Features&, const void* gradients, Weighting, double eps, int64_t begin, int64_t end,
                           void* sums, void* weights);
  // out [Z] = sum_k gradients[k] * features[k] at positions [begin, end); positive: of positive gradients only.
  void (*product_map)(const Features&, const void* gradients, bool positive, int64_t begin, int64_t end, void* out);
};

}  // namespace fastcam
