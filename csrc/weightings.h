// The formulas of gradient weightings at one position or for one channel, shared by CPU and CUDA. Sums over positions
// and channels have an order of their own on each.
#pragma once

#include "exact.h"

namespace fastcam {

// The gradient where it is positive, else 0; NaN stays NaN.
template <class Acc>
FASTCAM_HD Acc positive_part(Acc g) {
  return g > Acc(0) ? g : g != g ? g : Acc(0);
}

// One position's share of the Grad-CAM++ weight: relu(g) * g^2 / (2 g^2 + sum(a) g^3 + eps); 0 where g is not positive.
template <class Acc>
FASTCAM_HD Acc plus_plus(Acc g, Acc activation_sum, Acc eps) {
  const Acc g2 = g * g, g3 = g2 * g;
  const Acc twice = Acc(2) * g2, mixed = activation_sum * g3;
  const Acc denominator = (twice + mixed) + eps;
  const Acc share = g2 / (denominator == Acc(0) ? Acc(1) : denominator) * g;
  return g > Acc(0) ? share : g != g ? g : Acc(0);
}

// What XGrad-CAM divides by: the sum, eps away from zero on its own side, so that no sum cancels it.
template <class Acc>
FASTCAM_HD Acc ratio_base(Acc sum, Acc eps) {
  const Acc base = sum < Acc(0) ? sum - eps : sum + eps;
  return base == Acc(0) ? Acc(1) : base;
}

}  // namespace fastcam
