// The build for processors with AVX2, FMA and F16C (x86-64-v3).
#ifdef __x86_64__
#define FASTCAM_SIMD avx2
#define FASTCAM_AVX2
#define FASTCAM_F16C

// Before the processor is chosen: inline functions of these headers stay those of every processor.
#include "../contour.h"
#include "../iou.h"
#include "../weightings.h"
#include "dispatch.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#endif
#include "kernels.inl"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif  // __x86_64__
