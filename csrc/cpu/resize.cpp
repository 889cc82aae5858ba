// CPU operator that resizes a picture as Pillow does, in one thread: pictures are prepared in many at once.
#include "../torch.h"
#include "dispatch.h"

namespace fastcam {
namespace {

Tensor resize(const Tensor& picture_, int64_t height, int64_t width, int64_t top, int64_t left, int64_t rows,
              int64_t columns, bool columns_first) {
  // picture [H, W, 3] of bytes; result [rows, columns, 3], that part of it in size height x width
  STD_TORCH_CHECK(picture_.dim() == 3 && picture_.scalar_type() == ScalarType::Byte && picture_.size(2) == 3 &&
                      picture_.size(0) > 0 && picture_.size(1) > 0 && rows > 0 && columns > 0 && top >= 0 &&
                      left >= 0 && top + rows <= height && left + columns <= width,
                  "resize: picture [H, W, 3] of bytes, a part of the size");
  const Tensor picture = packed(picture_);
  const int64_t H = picture.size(0), W = picture.size(1);
  STD_TORCH_CHECK(H < int64_t{1} << 30 && W < int64_t{1} << 30 && height < int64_t{1} << 30 && width < int64_t{1} << 30,
                  "resize: size");
  const Tensor out = empty_on(picture, {rows, columns, 3}, ScalarType::Byte);
  try {
    resize_picture(kernels(), picture.const_data_ptr<uint8_t>(), H, W, height, width, top, left, rows, columns,
                   columns_first, out.mutable_data_ptr<uint8_t>());
  } catch (const std::bad_alloc&) {
    STD_TORCH_CHECK(false, "fastcam: not enough memory for the work space of a picture of this size");
  }
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("resize", TORCH_BOX(&fastcam::resize)); }
