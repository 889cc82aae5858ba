// The build for processors with AVX-512 F, BW, DQ and VL (x86-64-v4).
#ifdef __x86_64__
#define FASTCAM_SIMD avx512
#define FASTCAM_AVX512
#define FASTCAM_F16C

// Before the processor is chosen: inline functions of these headers stay those of every processor.
#include "../contour.h"
#include "../iou.h"
#include "../weightings.h"
#include "dispatch.h"

#ifdef __clang__
#pragma clang attribute push(                                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#endif
#include "kernels.inl"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif  // __x86_64__
