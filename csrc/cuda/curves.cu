// CUDA operators of curves; see curves.cuh. What is chosen here, how much room a map gets, changes speed alone.
#include <algorithm>

#include "../arguments.h"
#include "curves.cuh"
#include "launch.h"

namespace fastcam {
namespace {

constexpr int kSharedThreads = 512, kGlobalThreads = 1024;

// Work space in global memory: for the odd map that finds no room in shared memory, or for all maps.
constexpr int64_t kOddSpace = int64_t{128} << 20, kAllSpace = int64_t{1} << 30;

// A map's hills, regional maxima and components of one level are no more than this. Two regional maxima do not touch.
int64_t most_hills(int64_t H, int64_t W) { return H * ceil_div(W, 2); }
int64_t most_branches(int64_t H, int64_t W, bool four_connected) {
  return four_connected ? ceil_div(H * W, 2) : ceil_div(H, 2) * ceil_div(W, 2);
}

// As much room as there is in some bytes of shared memory, in proportions that suit smooth maps. No bytes where that is
// less than a map upsampled from 28 x 28 to 224 x 224 needs, or where the picture is too large for 16-bit indices.
TreePlan shared_plan(int64_t H, int64_t W, int64_t bytes) {
  if (H * W >= 65536 || (H - 1) * (W - 1) >= 65536) return {};
  constexpr int64_t kHill = 3, kBranch = 22, kNode = 12, kMostNodes = 4096;
  const int64_t fixed = plan_tree<SmallTree>(W, H, 0, 0, 0).bytes, room = bytes - fixed - 16 * 16;
  const int64_t hills = std::min(most_hills(H, W), room / 5 / kHill);
  const int64_t branches = std::min(most_branches(H, W, true), room / 5 / kBranch);
  const int64_t nodes = std::min(kMostNodes, (room - kHill * hills - kBranch * branches) / kNode);
  if (hills < std::min(most_hills(H, W), 8 * H) || nodes < 1024) return {};
  return plan_tree<SmallTree>(W, H, hills, branches, nodes);
}

void launch_curves(const Launch& launch, CurveArguments a, const Tensor& maps, const char* name) {
  const int64_t H = maps.size(1), W = maps.size(2), limit = launch.limits().shared;
  STD_TORCH_CHECK(maps.size(0) < int64_t{1} << 31, name, ": too many maps");
  a.maps = maps.const_data_ptr();
  a.N = maps.size(0);
  a.is_double = maps.scalar_type() == ScalarType::Double;
  if (a.N == 0) return;

  // Two blocks side by side are better than one with more room.
  a.plan = shared_plan(H, W, limit / 2 - 2048);
  if (a.plan.bytes == 0) a.plan = shared_plan(H, W, limit);
  const bool shared = a.plan.bytes > 0;
  Tensor unfinished = empty_on(maps, {shared ? a.N : 0}, ScalarType::Int);
  if (shared) {
    a.unfinished = unfinished.mutable_data_ptr<int32_t>();
    launch(name, curves_kernel<kSharedThreads, SmallTree>, dim3(static_cast<unsigned>(a.N)), kSharedThreads,
           a.plan.bytes, a);
  }
  const int64_t branches = most_branches(H, W, a.kind == Curve::kBestIou);
  a.plan = plan_tree<LargeTree>(W, H, most_hills(H, W), branches, std::max(branches, ceil_div(H * W, 2)));
  const int64_t blocks = std::min(
      {a.N, launch.limits().multiprocessors, std::max<int64_t>(1, (shared ? kOddSpace : kAllSpace) / a.plan.bytes)});
  Tensor space = empty_on(maps, {blocks, a.plan.bytes}, ScalarType::Byte);
  a.space = space.mutable_data_ptr<uint8_t>();
  launch(name, curves_kernel<kGlobalThreads, LargeTree>, dim3(static_cast<unsigned>(blocks)), kGlobalThreads, 0, a);
}

Tensor box_curves(const Tensor& maps_) {
  const Launch launch(maps_);
  const Tensor maps = checked_maps(maps_, "box_curves");
  Tensor out = empty_on(maps, {maps.size(0), 256, 4}, ScalarType::Int);
  CurveArguments a{};
  a.kind = Curve::kBoxes;
  a.boxes = out.mutable_data_ptr<int32_t>();
  launch_curves(launch, a, maps, "box_curves");
  return out;
}

Tensor iou_curves(const Tensor& maps_, const Tensor& truths_, const Tensor& starts_, bool all_contours) {
  const Launch launch(maps_);
  const Tensor maps = checked_maps(maps_, "iou_curves");
  check_truths(maps, truths_, starts_);
  const Tensor truths = packed(truths_), starts = packed(starts_);
  Tensor out = empty_on(maps, {maps.size(0), 256}, ScalarType::Double);
  CurveArguments a{};
  a.kind = all_contours ? Curve::kBestIou : Curve::kLargestIou;
  a.truths = truths.const_data_ptr<double>();
  a.starts = starts.const_data_ptr<int64_t>();
  a.ious = out.mutable_data_ptr<double>();
  launch_curves(launch, a, maps, "iou_curves");
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) {
  m.impl("box_curves", TORCH_BOX(&fastcam::box_curves));
  m.impl("iou_curves", TORCH_BOX(&fastcam::iou_curves));
}
