// Python bindings of the operators on emulated blocks. Tensors come as addresses, and go as buffers.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "launch.h"

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

fastcam::Value argument(const py::handle& given) {
  if (given.is_none()) return std::nullopt;
  if (py::isinstance<py::bool_>(given)) return given.cast<bool>();
  if (py::isinstance<py::int_>(given)) return given.cast<int64_t>();
  if (py::isinstance<py::float_>(given)) return given.cast<double>();
  if (py::isinstance<py::str>(given)) return given.cast<std::string>();
  if (py::isinstance<py::sequence>(given)) return given.cast<std::vector<double>>();
  return given.cast<Tensor>();
}

}  // namespace

#ifndef MODULE_NAME
#define MODULE_NAME emulated
#endif

PYBIND11_MODULE(MODULE_NAME, m) {
  py::class_<Tensor>(m, "Tensor", py::buffer_protocol(), py::module_local())
      .def(py::init(&borrowed))
      .def_buffer(&buffer);
  m.def("set_device", [](int64_t multiprocessors, int64_t shared, uint32_t seed) {
    fastcam::limits = {multiprocessors, shared};
    emulation::seed = seed;
  });
  m.def("run_elsewhere",
        [](uintptr_t launcher) { fastcam::elsewhere = reinterpret_cast<emulation::Elsewhere>(launcher); });
  for (const auto& [name, call] : fastcam::library.operators)
    m.def(name.c_str(), [call = call](const py::args& given) {
      std::vector<fastcam::Value> values;
      for (const py::handle each : given) values.push_back(argument(each));
      return call(values);
    });
}
