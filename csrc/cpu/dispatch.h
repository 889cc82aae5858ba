// Which build of the CPU kernels runs. What they offer to the operators is plain data and function pointers: nothing
// from the standard library crosses this border, so that no inline function compiled for a newer processor can be
// linked into code that runs on an older one.
#pragma once

#include "boxes.h"
#include "components.h"
#include "curves.h"
#include "heatmap.h"
#include "histograms.h"
#include "refine.h"
#include "resize.h"
#include "sums.h"

namespace fastcam {

struct Kernels : SumsKernels,
                 HeatmapKernels,
                 BoxesKernels,
                 ComponentsKernels,
                 CurvesKernels,
                 HistogramsKernels,
                 RefineKernels,
                 ResizeKernels {
  const char* name;
};

namespace portable {
extern const Kernels kernels;
}
#ifdef __x86_64__
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

// The fastest build that this processor runs, or the one that FASTCAM_SIMD names (portable, avx2, avx512).
const Kernels& kernels();

}  // namespace fastcam
