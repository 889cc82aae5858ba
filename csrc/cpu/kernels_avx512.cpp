// The build for processors with AVX-512 F, BW, DQ and VL (x86-64-v4).
#ifdef __x86_64__
#include <immintrin.h>

#include <type_traits>

#include "../bins.h"
#include "../contour.h"
#include "../iou.h"
#include "../lerp.h"
#include "kernels.h"

#define FASTCAM_AVX512
#define FASTCAM_F16C
#ifdef __clang__
#pragma clang attribute push(                                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#endif
#define FASTCAM_SIMD avx512
#define FASTCAM_SIMD_NAME "avx512"
#include "kernels.inl"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif  // __x86_64__
