// The CPU kernels, one image at a time. This file is compiled once for each instruction set (kernels_*.cpp). Sums run
// over 16 explicit lanes and every product is an explicit fma, so that each build gives the same bits; compilers turn
// the fixed-length loops into vector code, and only the comparison that makes mask bits and the widening of half values
// are written with intrinsics.

namespace fastcam {
namespace FASTCAM_SIMD {
namespace {

template <class T>
inline T larger(T a, T b) {
  return a > b ? a : b;
}
template <class T>
inline T smaller(T a, T b) {
  return a < b ? a : b;
}

constexpr int kLanes = 16;

// clang-format off: each builds on those before it
#include "sums.inl"
#include "maps.inl"
#include "components.inl"
#include "curves.inl"
#include "histograms.inl"
#include "resize.inl"
// clang-format on

}  // namespace

const Kernels kernels = {FASTCAM_SIMD_NAME,
                         class_map,
                         gradient_weights,
                         product_map,
                         heatmap<float>,
                         heatmap<double>,
                         boxes,
                         components,
                         growths,
                         sort_levels<float>,
                         sort_levels<double>,
                         curve,
                         contours,
                         score_histogram<float>,
                         score_histogram<double>,
                         resize_rows,
                         resize_columns};

}  // namespace FASTCAM_SIMD
}  // namespace fastcam
