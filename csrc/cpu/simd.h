// What the kernels (*.inl) are written in. Each is compiled once for every instruction set, by portable.cpp, avx2.cpp
// and avx512.cpp, in a namespace named after it; an editor that opens one alone sees the portable build. They work in
// kLanes explicit lanes, as loops of fixed length that compilers turn into vector code, and every product that is added
// is an explicit fma, so that all builds give the same bits.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "../exact.h"
#include "../options.h"

#ifndef FASTCAM_SIMD
#define FASTCAM_SIMD portable
#endif

namespace fastcam {

constexpr int kLanes = 16;

// A kernel in both precisions: of(Type<float>()) and of(Type<double>()).
template <template <class> class Kernel>
struct FloatOrDouble {
  Kernel<float>* of_float;
  Kernel<double>* of_double;
  Kernel<float>* of(Type<float>) const { return of_float; }
  Kernel<double>* of(Type<double>) const { return of_double; }
};

}  // namespace fastcam
