// Python bindings of the operators on emulated blocks. Tensors come as addresses, and go as buffers.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "operators.h"

namespace py = pybind11;
using torch::stable::ScalarType;
using torch::stable::Sizes;
using torch::stable::Tensor;

namespace {

constexpr std::pair<const char*, ScalarType> kTypes[] = {
    {"uint8", ScalarType::Byte},    {"bool", ScalarType::Bool},      {"int32", ScalarType::Int},
    {"int64", ScalarType::Long},    {"float16", ScalarType::Half},   {"bfloat16", ScalarType::BFloat16},
    {"float32", ScalarType::Float}, {"float64", ScalarType::Double},
};

Tensor borrowed(uintptr_t address, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                const std::string& type) {
  for (const auto& [name, value] : kTypes)
    if (type == name)
      return {reinterpret_cast<void*>(address), Sizes(sizes.begin(), sizes.end()),
              Sizes(strides.begin(), strides.end()), value};
  throw py::type_error(type);
}

py::buffer_info buffer(const Tensor& t) {
  constexpr const char* kFormats[] = {"B", "i", "q", "e", "H", "f", "d", "?"};
  const int64_t bytes = torch::stable::size_of(t.scalar_type());
  Sizes strides = t.strides();
  for (int64_t& stride : strides) stride *= bytes;
  return {t.mutable_data_ptr(), bytes, kFormats[static_cast<int>(t.scalar_type())], t.dim(), t.sizes(), strides};
}

// Binds an operator if the library was built with it.
template <class Signature>
void bind(py::module_& m, const char* name) {
  if (fastcam::library.operators.count(name) > 0) m.def(name, operators::find<Signature>(name));
}

}  // namespace

#ifndef MODULE_NAME
#define MODULE_NAME emulated
#endif

PYBIND11_MODULE(MODULE_NAME, m) {
  using namespace operators;
  py::class_<Tensor>(m, "Tensor", py::buffer_protocol(), py::module_local())
      .def(py::init(&borrowed))
      .def_buffer(&buffer);
  m.def("set_device", [](int64_t multiprocessors, int64_t shared, uint32_t seed) {
    fastcam::limits = {multiprocessors, shared};
    emulation::seed = seed;
  });
  bind<ClassMap>(m, "class_map");
  bind<GradientMap>(m, "gradient_map");
  bind<Heatmap>(m, "heatmap");
  bind<Boxes>(m, "boxes");
  bind<ClassBoxes>(m, "class_boxes");
  bind<BoxCurves>(m, "box_curves");
  bind<IouCurves>(m, "iou_curves");
  bind<ScoreHistograms>(m, "score_histograms");
  bind<Components>(m, "components");
}
