// How an operator's host code hands a kernel over to something that runs it in the emulation's place.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulation {

// What a kernel may touch: the memory of a tensor.
struct Memory {
  uint64_t begin, end;
};

struct Launched {
  const char* kernel;  // its mangled name
  unsigned grid_x, grid_y, threads;
  size_t shared;                   // bytes of dynamic shared memory
  const unsigned char* arguments;  // as they lie in a kernel's parameters
  size_t bytes;
  const Memory* memory;
  size_t count;
};

using Elsewhere = bool (*)(const Launched&);  // false: it does not know that kernel

}  // namespace emulation
