// Boxes of the largest component above thresholds: a block finds those of one map, from its coarse samples or, with the
// weighted sum before them, straight from the activations. The mask's bits (boxes_mask.cuh) and the runs in which
// boxes_runs.cuh finds the component are in shared memory; the picture is nowhere. A mask with more runs than shared
// memory has room for, or too large for it, is labelled in one of a few rooms in global memory, for which blocks take
// turns. Traffic: the coarse map, or the activations, once for each block of thresholds; and the picture once if it is
// wanted. All that is found are integers: the same for any block size and order of blocks.
#pragma once

#include "boxes_mask.cuh"
#include "boxes_runs.cuh"
#include "heatmap.cuh"
#include "sums.cuh"
#include "surface.cuh"

#ifdef __CUDACC__
#define FASTCAM_NOINLINE __noinline__
#else
#define FASTCAM_NOINLINE
#endif

namespace fastcam {

constexpr int kMostRooms = 256;

// Threads for whose registers a multiprocessor should have room: double precision takes twice as many.
template <bool kBicubic>
constexpr int kResident = kBicubic ? 512 : 1024;

// What a kernel searches for, and where masks are labelled.
struct BoxArguments {
  Upsampling size;
  Choice choice;
  int32_t thresholds, begin, end;  // how many each map has, and which of them are searched for
  int32_t capacity;      // of the room in shared memory, in runs; 0 when the mask does not fit, or its bilinear map
  int64_t map_bytes;     // of shared memory before that room: for the surface; 0 when its map stays in global memory
  unsigned char* rooms;  // [room_count, room_bytes] in global memory
  int64_t room_bytes;
  int32_t room_count;
};

// Thresholds relative to the range of each map come with the kernel's arguments: a copy to the device would make the
// host wait, and could not be captured in a graph.
constexpr int kMostRelative = 128;
struct Relative {
  float thresholds[kMostRelative];
};

// Places a room at an address; returns how many bytes it takes.
template <class Index>
FASTCAM_HD int64_t place(Room<Index>& room, unsigned char* at, const Upsampling& size, int32_t capacity, bool contour) {
  room.H = size.H, room.W = size.W, room.words = (size.W + 31) / 32, room.capacity = capacity;
  int64_t bytes = 0;
  const auto array = [&](auto*& pointer, int64_t count) {
    pointer = reinterpret_cast<decltype(pointer + 0)>(at + bytes);
    bytes += count * static_cast<int64_t>(sizeof(*pointer));
  };
  array(room.mask, static_cast<int64_t>(room.H) * room.words);
  array(room.first, room.H + 1);
  array(room.parent, capacity);
  array(room.size, capacity);
  array(room.links, contour ? capacity : 0);
  array(room.extents, contour ? capacity / 4 * 3 : 0);
  array(room.start, capacity);
  array(room.end, capacity);
  array(room.row, capacity);
  return (bytes + 15) / 16 * 16;
}

// What pixels of a usable map must reach at threshold t.
struct Cuts {
  const float *levels, *relative;  // [T] absolute levels or null, [end - begin]
  int32_t begin;
  __device__ float operator()(int32_t t) const { return levels ? above(levels[t]) : relative[t - begin]; }
};

// One block at a time has each room in global memory; one that waits for it waits for a block that runs.
static __device__ unsigned rooms_taken[kMostRooms];

// The boxes that search_map() left, marked with -1.
template <int kThreads, bool kBicubic>
__device__ FASTCAM_NOINLINE void search_elsewhere(const float* map, unsigned char* shared, Cuts cut_of, BoxArguments a,
                                                  int32_t* out) {
  Surface<float, kBicubic> surface;
  surface.template load<kThreads>(map, a.size, a.map_bytes ? shared : nullptr);
  const int index = static_cast<int>((blockIdx.x + blockIdx.y * gridDim.x) % a.room_count);
  if (threadIdx.x == 0) {
    while (atomicCAS(rooms_taken + index, 0u, 1u) != 0) __nanosleep(100);  // up to a thousand blocks ask
    __threadfence();
  }
  __syncthreads();
  Room<int32_t> room;
  const int32_t capacity = a.size.H * ((a.size.W + 1) / 2);
  place(room, a.rooms + index * a.room_bytes, a.size, capacity, a.choice.contour);
  for (int32_t t = a.begin + blockIdx.y; t < a.end; t += gridDim.y) {
    if (out[4 * t] >= 0) continue;
    threshold<kThreads>(surface, a.size, cut_of(t), room);
    largest_box<kThreads>(room, find_runs<kThreads>(room), a.choice, out + 4 * t);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicExch(rooms_taken + index, 0u);
  }
}

// The picture that is searched may be wanted too, from the same coarse map and the same extremes: [M, H, W] normalised
// by its minimum and maximum, of floats or bytes, or null.
struct Picture {
  void* pixels;
  bool as_bytes;
};

// Boxes of map m, whose samples lie in global memory or at the beginning of shared memory.
template <int kThreads, bool kBicubic, bool kPaints>
__device__ void search_map(const float* map, unsigned char* shared, int64_t m, const float* levels,
                           const Relative& relative, const BoxArguments& a, Picture picture, int32_t* out) {
  __shared__ float cuts[kMostRelative];
  const int32_t first = a.begin + static_cast<int32_t>(blockIdx.y), step = static_cast<int32_t>(gridDim.y);
  out += m * a.thresholds * 4;
  Surface<float, kBicubic> surface;
  bool usable = surface.template load<kThreads>(map, a.size, a.map_bytes ? shared : nullptr);
  const bool paints = kPaints && picture.pixels != nullptr;
  float low = 0, high = 0;
  bool ranges = usable;  // whether there is a range for thresholds to be relative to
  if (usable && (levels == nullptr || paints)) {
    surface.template extremes<kThreads>(low, high);
    ranges = finite(high - low) && high > low;
  }
  if (paints) {
    // First of all: its way to memory takes longest.
    const Rows rows = rows_of_block(a.size.H);
    const auto paint_as = [&](auto* pixels) {
      paint_normalised<kThreads>(surface, a.size, rows.begin, rows.end, ranges, low, high,
                                 pixels + m * a.size.H * a.size.W);
    };
    if (picture.as_bytes)
      paint_as(static_cast<uint8_t*>(picture.pixels));
    else
      paint_as(static_cast<float*>(picture.pixels));
  }
  // Relative thresholds become values that pixels must reach, a warp for each.
  if (levels == nullptr) {
    usable = ranges;
    for (int32_t t = first + warp() * step; usable && t < a.end; t += kThreads / 32 * step) {
      const float cut = warp_cutoff(low, high, relative.thresholds[t - a.begin]);
      if (lane() == 0) cuts[t - a.begin] = cut;
    }
    __syncthreads();
  }
  const Cuts cut_of{levels ? levels + m * a.thresholds : nullptr, cuts, a.begin};
  Room<uint16_t> room;
  place(room, shared + a.map_bytes, a.size, a.capacity, a.choice.contour);
  // One threshold after the other, in the same room. What does not fit is marked, and done at the end.
  bool left = false;
  for (int32_t t = first; t < a.end; t += step) {
    const float cut = usable ? cut_of(t) : INFINITY;  // which no pixel reaches
    int32_t count = cut == INFINITY ? 0 : 1;
    if (count > 0 && a.capacity > 0) {
      threshold<kThreads>(surface, a.size, cut, room);
      count = find_runs<kThreads>(room);
    }
    if (count > 0 && count <= a.capacity)
      largest_box<kThreads>(room, count, a.choice, out + 4 * t);
    else if (threadIdx.x < 4)
      out[4 * t + threadIdx.x] = count > 0 ? -1 : 0;
    left = left || count > a.capacity;
  }
  if (!left) return;
  __syncthreads();
  search_elsewhere<kThreads, kBicubic>(map, shared, cut_of, a, out);
}

template <int kThreads, bool kBicubic>
__global__ void __launch_bounds__(kThreads, kResident<kBicubic> / kThreads)
    boxes_kernel(const float* __restrict__ coarse,  // [M, h, w]
                 const float* __restrict__ levels,  // [M, T] absolute, or null
                 Relative relative,
                 int32_t* __restrict__ out,  // [M, T, 4]
                 BoxArguments a) {
  FASTCAM_DYNAMIC_SHARED(shared);
  const int64_t m = blockIdx.x;
  search_map<kThreads, kBicubic, false>(coarse + m * a.size.h * a.size.w, shared, m, levels, relative, a, {}, out);
}

// A kernel of its own paints: the other one needs no registers for it.
template <int kThreads, bool kBicubic, bool kPaints, class In>
__global__ void __launch_bounds__(kThreads, kResident<kBicubic> / kThreads)
    class_boxes_kernel(const In* __restrict__ features,    // [N, K, h, w] or [N, h, w, K]
                       const float* __restrict__ weights,  // [N, C, K]
                       float* maps,                        // [N * C, h, w] when shared memory has no room for one
                       const float* __restrict__ levels,   // [N * C, T] absolute, or null
                       Relative relative,
                       int32_t* __restrict__ out,  // [N * C, T, 4]
                       int64_t C, int64_t K, bool channels_last, BoxArguments a, Picture picture) {
  FASTCAM_DYNAMIC_SHARED(shared);
  const int64_t m = blockIdx.x, Z = static_cast<int64_t>(a.size.h) * a.size.w;
  float* map = a.map_bytes ? reinterpret_cast<float*>(shared) : maps + m * Z;
  float* space = reinterpret_cast<float*>(shared + a.map_bytes);  // what becomes the room
  block_class_map<kThreads>(features + m / C * K * Z, weights + m * K, map, K, Z, channels_last, space);
  search_map<kThreads, kBicubic, kPaints>(map, shared, m, levels, relative, a, picture, out);
}

}  // namespace fastcam
