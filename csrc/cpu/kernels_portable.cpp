// The build for every processor: plain loops, and the definition of the bits that the others must give.

#include <type_traits>

#include "../bins.h"
#include "../contour.h"
#include "../iou.h"
#include "../lerp.h"
#include "kernels.h"

#define FASTCAM_SIMD portable
#define FASTCAM_SIMD_NAME "portable"
#include "kernels.inl"
