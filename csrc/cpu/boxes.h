// The box of the largest component above a threshold (boxes.inl): a surface, thresholded into a room.
#pragma once

#include "components.h"
#include "heatmap.h"

namespace fastcam {

struct BoxesKernels {
  // boxes [count, 4] of one coarse map at relative thresholds or absolute levels.
  void (*boxes)(const Upsampling<float>&, Surface<float>&, Room&, const float* coarse, const float* levels,
                int64_t count, bool absolute, Choice, int32_t* out);
};

}  // namespace fastcam
