// Python bindings of the machine: kernels go in as decoding.py has decoded them, counts and findings come out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "machine.h"

namespace py = pybind11;
using namespace machine;

namespace {

// kind, negative, inverted, absolute, index, uniform, pair, scale, value, bank
using OperandFields = std::tuple<int, bool, bool, bool, int, int, bool, int, int64_t, int>;
// handler, guard, operands, parameters, address, text, (stall, written, read, wait), pipe, latency
using InstructionFields = std::tuple<std::string, OperandFields, std::vector<OperandFields>, std::vector<int>, int,
                                     std::string, std::array<int, 4>, int, int>;

Operand operand(const OperandFields& f) {
  const auto& [kind, negative, inverted, absolute, index, uniform, pair, scale, value, bank] = f;
  return {static_cast<Kind>(kind), negative, inverted, absolute, index, uniform, pair, scale, value, bank};
}

Instruction instruction(const InstructionFields& f) {
  const auto& [name, guard, operands, parameters, address, text, control, pipe, latency] = f;
  Instruction result{handler(name), operand(guard), {},         parameters, address, text,
                     control[0],    control[1],     control[2], control[3], pipe,    latency};
  for (const OperandFields& each : operands) result.operands.push_back(operand(each));
  return result;
}

py::dict as_dict(const Result& r) {
  const Statistics& s = r.statistics;
  py::dict d;
  d["kernel"] = r.kernel;
  d["resident"] = r.resident;
  d["blocks"] = r.blocks;
  d["shared"] = r.shared;
  d["cycles"] = s.cycles;
  d["warp_instructions"] = s.warp_instructions;
  d["lane_instructions"] = s.lane_instructions;
  d["barriers"] = s.barriers;
  d["divergent_branches"] = s.divergent_branches;
  d["global_reads"] = s.global_reads;
  d["sectors_read"] = s.sectors_read;
  d["global_writes"] = s.global_writes;
  d["sectors_written"] = s.sectors_written;
  d["local_accesses"] = s.local_accesses;
  d["shared_accesses"] = s.shared_accesses;
  d["bank_conflicts"] = s.bank_conflicts;
  d["busy"] = s.busy;
  d["executed"] = s.executed;
  d["stalled"] = s.stalled;
  return d;
}

py::object* load;  // (name) adds a kernel, and says whether it is known; outlives the interpreter

bool run(const emulation::Launched& launched) {
  if (machine::machine.kernels.count(launched.kernel) == 0 && !(*load)(launched.kernel).cast<bool>()) {
    if (machine::machine.settings.strict)
      throw std::runtime_error(std::string("machine code: none of ") + launched.kernel);
    return false;
  }
  machine::machine.launch(launched);
  return true;
}

// One instruction on one warp, whose registers are given by number, and come back.
std::map<int, Row> single(const InstructionFields& fields, const std::map<int, Row>& registers,
                          const std::map<int, uint32_t>& predicates, const std::string& memory, int lanes) {
  Kernel kernel{"single", 0, 0, {instruction(fields)}, {}};
  machine::machine.kernel = &kernel;
  machine::machine.parameters.assign(memory.begin(), memory.end());
  machine::machine.memory.clear();
  machine::machine.last = {};
  Block block;
  block.shared.assign(memory.begin(), memory.end());
  block.shared.insert(block.shared.begin(), kSharedBegin, 0);
  block.initialised.assign(block.shared.size(), true);
  Warp warp{};
  warp.block = &block;
  warp.local.assign(size_t{kLanes} * kLocal, 0);
  warp.live = warp.running = static_cast<uint32_t>(lanes);
  warp.predicates[kTruePredicate] = warp.uniform_predicates[kTruePredicate] = ~0u;
  for (const auto& [index, row] : registers) {
    if (index < 256)
      warp.registers[static_cast<size_t>(index)] = row;
    else
      warp.uniform[static_cast<size_t>(index - 256)] = row[0];
  }
  for (const auto& [index, bits] : predicates) warp.predicates[static_cast<size_t>(index)] = bits;
  execute(warp, kernel.code[0]);
  std::map<int, Row> result;
  for (int i = 0; i < 256; ++i) result[i] = warp.registers[static_cast<size_t>(i)];
  for (int i = 0; i < 64; ++i) result[256 + i].fill(warp.uniform[static_cast<size_t>(i)]);
  for (int i = 0; i < 7; ++i) result[1000 + i].fill(warp.predicates[static_cast<size_t>(i)]);
  for (int i = 0; i < 7; ++i) result[1010 + i].fill(warp.uniform_predicates[static_cast<size_t>(i)]);
  machine::machine.kernel = nullptr;
  return result;
}

}  // namespace

PYBIND11_MODULE(MODULE_NAME, m) {
  m.def("launcher", [] { return reinterpret_cast<uintptr_t>(&run); });
  m.def("add", [](const std::string& name, int registers, int64_t shared, const std::vector<InstructionFields>& code,
                  const std::map<int, py::bytes>& constants) {
    Kernel kernel{name, registers, shared, {}, {}};
    for (const InstructionFields& each : code) kernel.code.push_back(instruction(each));
    for (const auto& [bank, bytes] : constants) kernel.constants[bank] = bytes;
    machine::machine.kernels[name] = std::move(kernel);
  });
  m.def("begin", [](py::object loader) {
    delete load;
    load = new py::object(std::move(loader));
    machine::machine.kernels.clear();
  });
  m.def("single", &single);
  m.def("set", [](bool timed, bool hazards, bool strict, uint32_t seed, int resident, unsigned most_blocks) {
    Settings& s = machine::machine.settings;
    s.timed = timed;
    s.hazards = hazards;
    s.strict = strict;
    s.seed = seed;
    s.resident = resident;
    s.most_blocks = most_blocks;
  });
  m.def("results", [] {
    py::list list;
    for (const Result& each : machine::machine.results) list.append(as_dict(each));
    machine::machine.results.clear();
    return list;
  });
  m.def("findings", [] { return std::exchange(machine::machine.findings, {}); });
}
