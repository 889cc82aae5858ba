// Intersection over union as WSOL evaluators count it: every extent has one pixel more than the difference of its
// coordinates, and the extents of the intersection are not negative. Float64, each operation rounded on its own, the
// same on CPU and CUDA.
#pragma once

#include "exact.h"

namespace fastcam {

FASTCAM_HD double box_iou(const int32_t* box, const double* truth) {
  const double x0 = box[0] > truth[0] ? box[0] : truth[0], y0 = box[1] > truth[1] ? box[1] : truth[1];
  const double x1 = box[2] < truth[2] ? box[2] : truth[2], y1 = box[3] < truth[3] ? box[3] : truth[3];
  const double across = x1 - x0 + 1.0, down = y1 - y0 + 1.0;
  const double inter = (across > 0.0 ? across : 0.0) * (down > 0.0 ? down : 0.0);
  const double area = static_cast<double>(box[2] - box[0] + 1) * static_cast<double>(box[3] - box[1] + 1);
  const double truth_area = (truth[2] - truth[0] + 1.0) * (truth[3] - truth[1] + 1.0);
  return inter / ((area + truth_area) - inter);
}

// The best over the truth boxes [count, 4] of an image; 0 without any.
FASTCAM_HD double best_iou(const int32_t* box, const double* truths, int64_t count) {
  double best = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const double iou = box_iou(box, truths + 4 * i);
    best = iou > best ? iou : best;
  }
  return best;
}

}  // namespace fastcam
