// A CUDA block on the host, so that the kernels' own source runs, and can be sanitized, where there is no GPU: include
// this before any kernel header, then emulation::launch<kThreads>(grid_x, grid_y, shared_bytes, [&] { kernel(...); }).
//
// Every thread of a block is a fiber of the one system thread, and blocks run one after the other. A fiber gives way
// where the block or its warp has to meet, and the meeting is checked: all of them, at the same line, else launch()
// throws. With a seed the order of blocks and threads is shuffled, and fibers also give way around atomic accesses, so
// that what depends on the order of threads shows, and shows again with the same seed. ThreadSanitizer is told of the
// fibers and of what orders memory between them: __syncthreads, __syncwarp and __threadfence, not shuffles and votes.
// It then finds races inside a block, and between blocks, in whatever order the fibers ran. Shared memory is filled
// with garbage before each block.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

// What is part of the machine and not of the program: the sanitizers do not look into it.
#define EMULATION_MACHINE __attribute__((noinline, no_sanitize("address", "thread")))

// Where shared.ld has put the kernels' __shared__ variables; null in a build without it.
extern "C" unsigned char emulation_shared_begin[] __attribute__((weak)), emulation_shared_end[] __attribute__((weak));

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int kMostThreads = 1024, kStack = 1 << 18, kGarbage = 0xcd;
#ifdef __SANITIZE_THREAD__
constexpr int kCrews = 4;  // of fibers: neighbouring blocks have different ones, hence no history that orders them
#else
constexpr int kCrews = 1;
#endif

using Place = std::source_location;

inline std::string text(const Place& place) {
  return std::string(place.file_name()) + ":" + std::to_string(place.line());
}

// Where the threads of a block or the lanes of a warp wait for each other.
struct Meeting {
  int expected, arrived;
  unsigned round;
  Place place;
  char order[2];  // what ThreadSanitizer knows this meeting by, in even and odd rounds
};

struct Fiber {
  ucontext_t context;  // for the first step only; swapcontext enters the operating system
  void* resume[5];
  void* identity;  // for ThreadSanitizer
  const Meeting* waits_for;
  unsigned round;
  bool begun, finished;
  int slot;
};

struct Machine {
  Fiber crews[kCrews][kMostThreads], *fibers;
  Meeting block, warps[kMostThreads / 32];
  uint64_t slots[kMostThreads / 32][2][32];  // what lanes hand each other, in turns
  unsigned char *stacks, *shared;
  void (*run)(const void*);
  const void* kernel;
  void *scheduler[5], *scheduler_identity;
  unsigned crew;
  char begin, end, fence;  // what ThreadSanitizer knows the ends of launches and __threadfence by
  uint32_t random;
  std::string error;
};
inline Machine machine{};

inline uint32_t seed = 0;  // 0: threads in order, no turns around atomics

#ifdef __SANITIZE_THREAD__
EMULATION_MACHINE inline void assume(void* to) { __tsan_switch_to_fiber(to, __tsan_switch_to_fiber_no_sync); }
EMULATION_MACHINE inline void* new_identity() { return __tsan_create_fiber(0); }
EMULATION_MACHINE inline void* current_identity() { return __tsan_get_current_fiber(); }
EMULATION_MACHINE inline void acquire(void* p) { __tsan_acquire(p); }
EMULATION_MACHINE inline void release(void* p) { __tsan_release(p); }
#else
inline void assume(void*) {}
inline void* new_identity() { return nullptr; }
inline void* current_identity() { return nullptr; }
inline void acquire(void*) {}
inline void release(void*) {}
#endif

EMULATION_MACHINE inline uint32_t random_below(uint32_t count) {
  machine.random = machine.random * 1664525u + 1013904223u;
  return static_cast<uint32_t>(static_cast<uint64_t>(machine.random) * count >> 32);
}

// The compiler's own setjmp: no system call, nothing that sanitizers intercept. The jump must be in another function.
EMULATION_MACHINE [[noreturn]] inline void jump(void** to) { __builtin_longjmp(to, 1); }

EMULATION_MACHINE inline void leave() {
  Fiber& self = machine.fibers[threadIdx.x];
  assume(machine.scheduler_identity);
  if (__builtin_setjmp(self.resume) == 0) jump(machine.scheduler);
}

EMULATION_MACHINE inline void live() {
  while (true) {
    acquire(&machine.begin);
    machine.run(machine.kernel);
    release(&machine.end);
    machine.fibers[threadIdx.x].finished = true;
    leave();
  }
}

EMULATION_MACHINE inline void enter(unsigned thread) {
  Fiber& fiber = machine.fibers[thread];
  threadIdx.x = thread;
  if (fiber.identity == nullptr) fiber.identity = new_identity();
  assume(fiber.identity);
  if (__builtin_setjmp(machine.scheduler) != 0) return;
  if (fiber.begun) jump(fiber.resume);
  fiber.begun = true;
  setcontext(&fiber.context);
}

// Lets others run, now and then.
EMULATION_MACHINE inline void turn() {
  if (seed != 0 && random_below(4) == 0) leave();
}

EMULATION_MACHINE inline void meet(Meeting& meeting, bool orders_memory, const Place& place) {
  Fiber& self = machine.fibers[threadIdx.x];
  const unsigned round = meeting.round;
  if (meeting.arrived > 0 && (meeting.place.line() != place.line() || meeting.place.column() != place.column())) {
    machine.error = "thread " + std::to_string(threadIdx.x) + " is at " + text(place) + " while others wait at " +
                    text(meeting.place);
    leave();
  }
  meeting.place = place;
  if (orders_memory) release(&meeting.order[round & 1]);
  if (++meeting.arrived == meeting.expected) {
    meeting.arrived = 0;
    ++meeting.round;
    turn();
  } else {
    self.waits_for = &meeting;
    self.round = round;
    leave();
    self.waits_for = nullptr;
  }
  if (orders_memory) acquire(&meeting.order[round & 1]);
}

// One value of each lane of the warp. Slots take turns, so that one meeting is enough.
template <class T>
struct Lanes {
  const uint64_t* slots;
  T operator[](unsigned lane) const {
    const uint64_t word = __atomic_load_n(slots + lane, __ATOMIC_RELAXED);
    T v;
    std::memcpy(&v, &word, sizeof(T));
    return v;
  }
};

EMULATION_MACHINE inline uint64_t* exchange(unsigned mask, uint64_t word, const Place& place) {
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (mask != 0xffffffffu) {
    machine.error = "a warp call without all lanes at " + text(place);
    leave();
  }
  uint64_t* slots = machine.slots[warp][machine.fibers[threadIdx.x].slot ^= 1];
  __atomic_store_n(slots + lane, word, __ATOMIC_RELAXED);
  meet(machine.warps[warp], false, place);
  return slots;
}

template <class T>
Lanes<T> gather(unsigned mask, T v, const Place& place) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t word = 0;
  std::memcpy(&word, &v, sizeof(T));
  return {exchange(mask, word, place)};
}

template <class T, class F>
T update(T* p, F f) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>,
                "CUDA has no atomics of this type");
  turn();
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, f(old), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) continue;
  turn();
  return old;
}

inline unsigned char* dynamic_shared() { return machine.shared; }

// Everybody anew: at first, and after a launch that failed.
inline void build_fibers() {
  constexpr size_t kCount = kCrews * kMostThreads;
  if (machine.stacks == nullptr)
    machine.stacks = static_cast<unsigned char*>(
        mmap(nullptr, kStack * kCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (size_t i = 0; i < kCount; ++i) {
    Fiber& fiber = machine.crews[0][i];
    unsigned char* stack = machine.stacks + kStack * i;
    mprotect(stack, 4096, PROT_NONE);  // a thread that needs more than its stack crashes here
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, live, 0);
    fiber.begun = false;
  }
}

EMULATION_MACHINE inline void begin_block(unsigned threads, dim3 block, unsigned char* shared) {
  Machine& m = machine;
  blockIdx = block;
  m.shared = shared;
  m.crew = (m.crew + 1) % kCrews;
  m.fibers = m.crews[m.crew];
  m.block.expected = static_cast<int>(threads);
  m.block.arrived = 0;
  for (Meeting& warp : m.warps) warp.expected = 32, warp.arrived = 0;
  for (unsigned t = 0; t < threads; ++t) {
    m.fibers[t].finished = false;
    m.fibers[t].waits_for = nullptr;
    m.fibers[t].slot = 0;
  }
  release(&m.begin);
}

inline void run_block(unsigned threads, std::vector<unsigned>& order) {
  Machine& m = machine;
  unsigned finished = 0;
  while (finished < threads) {
    bool moved = false;
    if (seed != 0)
      for (unsigned i = threads; i > 1; --i) std::swap(order[i - 1], order[random_below(i)]);
    for (const unsigned t : order) {
      const Fiber& fiber = m.fibers[t];
      if (fiber.finished || (fiber.waits_for != nullptr && fiber.waits_for->round == fiber.round)) continue;
      enter(t);
      if (!m.error.empty()) return;
      finished += fiber.finished;
      moved = true;
    }
    if (moved) continue;
    for (const unsigned t : order)
      if (const Fiber& fiber = m.fibers[t]; !fiber.finished)
        m.error = "of " + std::to_string(fiber.waits_for->expected) + " threads " +
                  std::to_string(fiber.waits_for->arrived) + " wait at " + text(fiber.waits_for->place) + ", " +
                  std::to_string(finished) + " of the block have left";
    return;
  }
}

// Shared memory, full of garbage. For ThreadSanitizer it is memory that no other block has touched.
inline void renew_shared(std::vector<std::unique_ptr<unsigned char[]>>& memory, size_t bytes) {
  if (unsigned char* const begin = emulation_shared_begin; begin != nullptr) {
    const auto size = static_cast<size_t>(emulation_shared_end - begin);
    if (kCrews > 1) mmap(begin, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    std::memset(begin, kGarbage, size);
  }
  if (kCrews > 1 || memory.empty())  // on the heap and of its size, so that its end is guarded
    memory.push_back(std::make_unique<unsigned char[]>(bytes));
  std::memset(memory.back().get(), kGarbage, bytes);
}

// kernel() for each thread of each block. Throws when threads of a block do not meet.
template <class Kernel>
void launch(unsigned threads, dim3 grid, size_t shared_bytes, const Kernel& kernel) {
  Machine& m = machine;
  if (threads % 32 != 0 || threads > kMostThreads) throw std::invalid_argument("threads of a block");
  if (m.stacks == nullptr) build_fibers();
  m.kernel = &kernel;
  m.run = [](const void* k) { (*static_cast<const Kernel*>(k))(); };
  m.scheduler_identity = current_identity();
  m.random = seed;
  blockDim = {threads};
  gridDim = grid;
  std::vector<unsigned> order(threads), blocks(grid.x * grid.y);
  std::vector<std::unique_ptr<unsigned char[]>> shared;
  std::iota(order.begin(), order.end(), 0u);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (seed != 0)
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random_below(static_cast<uint32_t>(i))]);
  for (const unsigned block : blocks) {
    renew_shared(shared, shared_bytes);
    begin_block(threads, {block % grid.x, block / grid.x}, shared.back().get());
    run_block(threads, order);
    if (emulation_shared_begin == nullptr) acquire(&m.end);  // the next block will use the same variables
    if (m.error.empty()) continue;
    build_fibers();
    throw std::runtime_error(std::exchange(m.error, {}) + " in block " + std::to_string(block));
  }
  acquire(&m.end);
}

template <int kThreads, class Kernel>
void launch(unsigned grid_x, unsigned grid_y, size_t shared_bytes, const Kernel& kernel) {
  launch(kThreads, {grid_x, grid_y}, shared_bytes, kernel);
}

}  // namespace emulation

#include "intrinsics.h"
