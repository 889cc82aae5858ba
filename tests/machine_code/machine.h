// A streaming multiprocessor (sm_90) on the host: blocks of warps that execute decoded machine code, as nvdisasm prints
// it and decoding.py hands it over. What is checked on the way: addresses lie in memory that the kernel was given and
// are aligned, shared memory is written before it is read, barriers are reached by whole warps, every lane that a
// shuffle reads is there, and no two threads touch the same bytes of shared memory without an order between them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../emulation/elsewhere.h"

namespace machine {

constexpr int kLanes = 32, kMostWarps = 32, kBarriers = 16, kScoreboards = 6;
constexpr int kZeroRegister = 255, kZeroUniform = 63, kTruePredicate = 7;
constexpr uint32_t kGarbage = 0xcdcdcdcd;
constexpr uint32_t kSharedBegin = 0x400;         // what lies before belongs to the system
constexpr uint32_t kSharedWindow = 0x1234'0000;  // upper half of generic addresses of shared memory
constexpr int kLocal = 2048;                     // bytes of local memory a lane

using Row = std::array<uint32_t, kLanes>;   // a register: a word in each lane
using Wide = std::array<uint64_t, kLanes>;  // a pair of registers
using Clock = std::array<uint32_t, kMostWarps>;

enum class Kind { kNone, kRegister, kUniform, kPredicate, kUniformPredicate, kImmediate, kConstant, kAddress };

struct Operand {
  Kind kind = Kind::kNone;
  bool negative = false, inverted = false, absolute = false;
  int index = kZeroRegister;   // the register; of addresses and constants, one that is added
  int uniform = kZeroUniform;  // of addresses and constants, a uniform register that is added
  bool pair = false;           // the address' register is a pair
  int scale = 1;               // that the address' register is multiplied by
  int64_t value = 0;           // an immediate, or an offset; half of a register that is meant
  int bank = 0;                // of constants
};

enum Pipe { kFma, kHeavyFma, kAlu, kDouble, kTranscendental, kMemory, kUniformPipe, kBranch, kPipes };

struct Step;
using Handler = void (*)(Step&);

struct Instruction {
  Handler execute = nullptr;
  Operand guard;
  std::vector<Operand> operands;
  std::vector<int> parameters;
  int address = 0;
  std::string text;
  // The control code: cycles until the next one, scoreboards it sets when it has written and read, those it waits for.
  int stall = 1, written = 7, read = 7, wait = 0;
  int pipe = kAlu, latency = 0;
};

struct Kernel {
  std::string name;
  int registers = 0;
  int64_t shared = 0;  // declared statically
  std::vector<Instruction> code;
  std::map<int, std::string> constants;  // banks of the compiler's own
};

struct Block;

enum class Space : char { kGlobal, kShared, kLocal };
enum class Use : char { kRead, kWrite, kAtomic };

// What one instruction did to memory.
struct Access {
  bool any = false, generic = false;
  Space space{};
  Use use{};
  int bytes = 0, count = 0;
  std::array<uint64_t, kLanes> addresses{};
};

// Copies from global to shared memory that go on beside the program (cp.async).
struct Copy {
  uint64_t to, from;
  int bytes, lane;
};

struct Warp {
  std::array<Row, 256> registers;
  std::array<uint32_t, 8> predicates;  // a bit a lane
  std::array<uint32_t, 64> uniform;
  std::array<uint32_t, 8> uniform_predicates;  // all bits alike
  std::array<uint32_t, kBarriers> convergence{}, converged{};
  std::vector<std::pair<uint32_t, uint32_t>> meetings;  // of __syncwarp: lanes that are expected, and are there
  uint32_t live = ~0u, blocked = 0, running = ~0u;
  int at = 0;     // where the running lanes are
  int ahead = 0;  // the lowest place of the others that are not blocked; 0: not known
  std::array<int, kLanes> places{};
  int id = 0;
  Block* block = nullptr;
  std::vector<unsigned char> local;
  Clock seen{};  // how far the other warps were when this one last heard of them
  Access access;
  std::vector<std::vector<Copy>> copies{1};
  uint64_t copied = 0;  // when the last of them is done
  // Timing.
  uint64_t ready = 0;
  std::array<int, kScoreboards> pending{};
  std::vector<std::pair<uint64_t, int>> releases;

  // Without branches, here and in pick, so that compilers make vector instructions of it.
  void place(uint32_t lanes, int where) {
    for (int l = 0; l < kLanes; ++l) places[l] = lanes >> l & 1 ? where : places[l];
  }
  void pick();
};

// Who touched a byte of shared memory last.
struct Touch {
  int8_t warp = -1, lane = 0;
  bool atomic = false;
  int at = 0;
  uint32_t clock = 0;
};
struct Byte {
  Touch write, read, read_before;
};

struct Barrier {
  int arrived = 0, expected = 0;
  std::vector<std::pair<Warp*, uint32_t>> waiting;
  Clock clock{};
};

struct Block {
  unsigned index = 0, x = 0, y = 0;
  std::vector<unsigned char> shared;
  std::vector<bool> initialised;
  std::vector<Byte> bytes;  // empty where hazards are not looked for
  std::vector<std::unique_ptr<Warp>> warps;
  std::array<Barrier, kBarriers> barriers;
  uint64_t began = 0;
  int alive = 0;
};

struct Statistics {
  uint64_t warp_instructions = 0, lane_instructions = 0, cycles = 0, barriers = 0, divergent_branches = 0;
  uint64_t global_reads = 0, sectors_read = 0, global_writes = 0, sectors_written = 0, local_accesses = 0;
  uint64_t shared_accesses = 0, bank_conflicts = 0;
  std::array<double, kPipes> busy{};        // cycles of each pipe; of those that every scheduler has, on average
  std::vector<uint64_t> executed, stalled;  // for each instruction
};

struct Result {
  std::string kernel;
  int resident = 0;
  unsigned blocks = 0;
  int64_t shared = 0;
  Statistics statistics;
};

// kind, address of the earlier and of the later access → how often.
using Findings = std::map<std::tuple<std::string, std::string, int, int>, uint64_t>;

struct Settings {
  bool timed = false, hazards = false, strict = true;
  uint32_t seed = 0;         // of the order in which warps run; 0: in turns
  int resident = 0;          // blocks at once; 0: as many as fit
  unsigned most_blocks = 0;  // run only the first so many; 0: all
  uint64_t most_steps = 40'000'000'000;
  // Of an H200: one multiprocessor's share of 4.3 TB/s at 1.98 GHz, and latencies in cycles.
  double bytes_per_cycle = 4.3e12 / 132 / 1.98e9;
  uint64_t dram = 600, l2 = 270, l1 = 38, shared = 29, shared_atomic = 50, generic = 8, branch = 6, barrier = 18;
};

struct Machine {
  std::map<std::string, Kernel> kernels;
  Settings settings;
  std::vector<Result> results;
  Findings findings;

  const Kernel* kernel = nullptr;  // that runs
  std::vector<unsigned char> parameters;
  std::vector<emulation::Memory> memory;
  emulation::Memory last{};  // of these, that was touched last
  std::vector<std::unique_ptr<Block>> slots;
  Statistics statistics;
  uint64_t now = 0;
  uint64_t random = 1;

  void launch(const emulation::Launched& launched);
  void found(const std::string& what, int earlier, int later) { ++findings[{what, kernel->name, earlier, later}]; }
  uint32_t random_below(uint32_t count) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>((random >> 33) * count >> 31);
  }

 private:
  unsigned next = 0, total = 0, finished = 0, grid_x = 1;
  int threads = 0;
  int64_t shared = 0;

  void begin(size_t slot);
  bool end_if_done(Block& block);
  void run_untimed();
  void run_timed();
};

inline Machine machine;

// One instruction of one warp: of the lanes that run, those for which its guard holds.
struct Step {
  Warp& warp;
  const Instruction& instruction;
  uint32_t running, lanes;
  int next;  // place of all running lanes afterwards; -1: it differs, and they have been put there

  const Operand& operand(size_t i) const { return instruction.operands[i]; }
  int parameter(size_t i) const { return instruction.parameters[i]; }
  [[noreturn]] void fail(const std::string& what, int lane = -1) const;

  Row raw(const Operand& o, int word = 0) const;
  Row integer(size_t i) const;
  Wide wide(size_t i) const;
  std::array<float, kLanes> real(size_t i) const;
  std::array<double, kLanes> twice(size_t i) const;
  uint32_t bits(size_t i) const { return bits_of(operand(i)); }
  uint32_t bits_of(const Operand& o) const;
  Wide address(size_t i) const;

  void put(size_t i, const Row& values, int word = 0);
  void put_wide(size_t i, const Wide& values);
  void put_bits(size_t i, uint32_t values);
  template <class F>  // f(lane), a word, of each lane
  void compute(size_t i, const F& f) {
    Row r;
    for (int l = 0; l < kLanes; ++l) r[l] = f(l);
    put(i, r);
  }

  void begin_access(Space space, Use use, int bytes);
  unsigned char* memory(Space space, Use use, uint64_t address, int bytes, int lane);

  void move_to(int target);  // of `lanes`; the others go on
};

Handler handler(const std::string& name);
void execute(Warp& warp, const Instruction& instruction);
void leave(Warp& warp, uint32_t lanes);
void check_barrier(Block& block, Barrier& barrier);
void finish_copies(Step& step, size_t most);

}  // namespace machine
