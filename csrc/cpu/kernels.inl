// All CPU kernels in one build, compiled once for each instruction set.
#include "boxes.inl"
#include "components.inl"
#include "curves.inl"
#include "dispatch.h"
#include "heatmap.inl"
#include "histograms.inl"
#include "refine.inl"
#include "resize.inl"
#include "sums.inl"

#define FASTCAM_NAME_OF(build) #build
#define FASTCAM_NAME(build) FASTCAM_NAME_OF(build)

namespace fastcam::FASTCAM_SIMD {

const Kernels kernels = {sums_kernels,       heatmap_kernels, boxes_kernels,  components_kernels,        curves_kernels,
                         histograms_kernels, refine_kernels,  resize_kernels, FASTCAM_NAME(FASTCAM_SIMD)};

}  // namespace fastcam::FASTCAM_SIMD
