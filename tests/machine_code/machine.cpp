// Blocks on a multiprocessor: who runs when, barriers between warps, and how long it takes.
#include "machine.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <unordered_set>

namespace machine {

// Lanes at the lowest place run first, so that those that are ahead are waited for.
void Warp::pick() {
  const uint32_t able = live & ~blocked;
  running = 0;
  if (able == 0) return;
  const auto lowest = [&](uint32_t lanes) {
    int place = std::numeric_limits<int>::max();
    for (int l = 0; l < kLanes; ++l) {
      const int here = lanes >> l & 1 ? places[l] : std::numeric_limits<int>::max();
      place = here < place ? here : place;
    }
    return place;
  };
  at = lowest(able);
  uint32_t there = 0;
  for (int l = 0; l < kLanes; ++l) there |= static_cast<uint32_t>(places[l] == at) << l;
  running = able & there;
  ahead = lowest(able & ~running);
}

void execute(Warp& w, const Instruction& instruction) {
  w.access.any = false;
  Step step{w, instruction, w.running, w.running, w.at + 1};
  step.lanes &= step.bits_of(instruction.guard);
  instruction.execute(step);
  if (step.next < 0) {
    w.pick();
  } else if (w.running == (w.live & ~w.blocked) || step.next < w.ahead) {
    w.at = step.next;
  } else {  // others are at that place, or before it
    w.place(w.running, step.next);
    w.pick();
  }
}

void check_barrier(Block& block, Barrier& barrier) {
  int expected = barrier.expected;
  if (expected == 0)
    for (const auto& warp : block.warps) expected += std::popcount(warp->live);
  if (barrier.arrived == 0 || barrier.arrived < expected) return;
  ++machine.statistics.barriers;
  for (const auto& [warp, lanes] : barrier.waiting) {
    warp->blocked &= ~lanes;
    for (int l = 0; l < kLanes; ++l)
      if (lanes >> l & 1) ++warp->places[l];
    for (int i = 0; i < kMostWarps; ++i)
      if (i != warp->id) warp->seen[i] = std::max(warp->seen[i], barrier.clock[i]);
    warp->ready = std::max(warp->ready, machine.now + machine.settings.barrier);
    warp->pick();
  }
  barrier = {};
}

void Machine::begin(size_t slot) {
  auto block = std::make_unique<Block>();
  block->index = next++;
  block->x = block->index % grid_x;
  block->y = block->index / grid_x;
  const size_t bytes = kSharedBegin + static_cast<size_t>(shared);
  block->shared.assign(bytes, static_cast<unsigned char>(kGarbage + settings.seed));
  block->initialised.assign(bytes, false);
  if (settings.hazards) block->bytes.resize(bytes);
  block->began = now;
  block->alive = threads / kLanes;
  for (int i = 0; i < block->alive; ++i) {
    auto warp = std::make_unique<Warp>();
    std::memset(&warp->registers, kGarbage & 0xff, sizeof(warp->registers));
    warp->predicates.fill(0x5a5a5a5a);
    warp->predicates[kTruePredicate] = ~0u;
    warp->uniform.fill(kGarbage);
    warp->uniform_predicates.fill(0);
    warp->uniform_predicates[kTruePredicate] = ~0u;
    warp->local.assign(size_t{kLanes} * kLocal, kGarbage & 0xff);
    warp->id = i;
    warp->block = block.get();
    warp->seen[i] = 1;
    warp->ready = now;
    block->warps.push_back(std::move(warp));
  }
  slots[slot] = std::move(block);
}

// After a warp has ended. A block whose last warp it was makes room for the next.
bool Machine::end_if_done(Block& block) {
  for (Barrier& barrier : block.barriers)
    if (barrier.arrived > 0) check_barrier(block, barrier);
  if (--block.alive > 0) return false;
  ++finished;
  for (auto& slot : slots)
    if (slot.get() == &block) {
      slot.reset();
      if (next < total) begin(static_cast<size_t>(&slot - slots.data()));
      break;
    }
  return true;
}

namespace {

[[noreturn]] void deadlock() {
  std::string message = "machine code: deadlock in " + machine.kernel->name + ";";
  for (const auto& block : machine.slots)
    for (size_t i = 0; block != nullptr && i < block->warps.size() && message.size() < 2000; ++i) {
      const Warp& w = *block->warps[i];
      if (w.live == 0) continue;
      const Instruction& where = machine.kernel->code[static_cast<size_t>(w.places[std::countr_zero(w.live)])];
      char place[16];
      std::snprintf(place, sizeof(place), "%04x", static_cast<unsigned>(where.address));
      message += " warp " + std::to_string(w.id) + " of block " + std::to_string(block->index) + " at " + place + " (" +
                 where.text + ")";
    }
  throw std::runtime_error(message);
}

}  // namespace

// Warps take turns of some instructions, or as long as they can; with a seed in random order.
void Machine::run_untimed() {
  uint64_t steps = 0;
  std::vector<Warp*> warps;
  while (finished < total) {
    warps.clear();
    for (const auto& block : slots)
      for (size_t i = 0; block != nullptr && i < block->warps.size(); ++i)
        if (block->warps[i]->running != 0) warps.push_back(block->warps[i].get());
    if (warps.empty()) deadlock();
    if (settings.seed != 0)
      for (size_t i = warps.size(); i > 1; --i) std::swap(warps[i - 1], warps[random_below(static_cast<uint32_t>(i))]);
    bool ended = false;
    for (size_t i = 0; i < warps.size() && !ended; ++i) {
      Warp& w = *warps[i];
      Block& block = *w.block;
      for (uint32_t turn = settings.seed == 0 ? 2000 : 1 + random_below(200); turn > 0 && w.running != 0; --turn) {
        const auto place = static_cast<size_t>(w.at);
        ++statistics.warp_instructions;
        statistics.lane_instructions += static_cast<uint64_t>(std::popcount(w.running));
        ++statistics.executed[place];
        execute(w, kernel->code[place]);
        ++now;
      }
      if (w.live == 0) ended = end_if_done(block);
    }
    if (now - steps > settings.most_steps) throw std::runtime_error("machine code: too many steps in " + kernel->name);
  }
}

namespace {

// Cycles that the memory pipe is busy with an access, and when its data is there; 0: after the pipe's own latency.
struct Memory {
  double dram_free = 0, pipe_free = 0;
  std::unordered_map<uint64_t, uint64_t> sectors;  // that the first level holds → since when

  uint64_t cost(const Access& access, int& busy);
};

int shared_cycles(const Access& access) {
  const int words = std::max(1, access.bytes / 4), at_once = kLanes / words;
  int cycles = 0;
  if (access.use == Use::kAtomic) {  // lanes of one address go one after the other
    std::unordered_map<uint64_t, int> lanes;
    for (int i = 0; i < access.count; ++i) cycles = std::max(cycles, ++lanes[access.addresses[i]]);
    return cycles;
  }
  for (int begin = 0; begin < access.count; begin += at_once) {
    int banks[kLanes]{}, worst = 0;
    uint64_t seen[kLanes * 4];
    int count = 0;
    for (int i = begin; i < std::min(access.count, begin + at_once); ++i)
      for (int word = 0; word < words; ++word) {
        const uint64_t a = access.addresses[i] / 4 + static_cast<uint64_t>(word);
        if (std::find(seen, seen + count, a) != seen + count) continue;
        seen[count++] = a;
        worst = std::max(worst, ++banks[a % kLanes]);
      }
    cycles += worst;
  }
  return cycles;
}

uint64_t Memory::cost(const Access& access, int& busy) {
  const Settings& set = machine.settings;
  Statistics& statistics = machine.statistics;
  busy = 1;
  if (access.count == 0) return 0;
  if (access.space == Space::kShared) {
    const int cycles = shared_cycles(access), least = std::max(1, access.bytes * access.count / 128);
    ++statistics.shared_accesses;
    statistics.bank_conflicts += static_cast<uint64_t>(std::max(0, cycles - least));
    busy = std::max(1, cycles);
    return 0;
  }
  if (access.space == Space::kLocal) {
    ++statistics.local_accesses;
    busy = std::max(1, access.bytes / 4);
    return access.use == Use::kRead ? machine.now + set.l1 : 0;
  }
  std::array<uint64_t, kLanes * 2> touched;
  size_t count = 0;
  for (int i = 0; i < access.count; ++i) touched[count++] = access.addresses[i] / 32;
  std::sort(touched.begin(), touched.begin() + static_cast<std::ptrdiff_t>(count));
  count = static_cast<size_t>(std::unique(touched.begin(), touched.begin() + static_cast<std::ptrdiff_t>(count)) -
                              touched.begin());
  const bool reads = access.use == Use::kRead;
  ++(reads ? statistics.global_reads : statistics.global_writes);
  (reads ? statistics.sectors_read : statistics.sectors_written) += count;
  busy = std::max<int>(static_cast<int>(count + 3) / 4, std::max(1, access.bytes / 4));
  uint64_t done = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto known = sectors.find(touched[i]);
    if (access.use == Use::kAtomic) {
      done = std::max(done, machine.now + set.l2);
    } else if (reads && known != sectors.end()) {
      done = std::max({done, known->second, machine.now + set.l1});
    } else {
      dram_free = std::max(dram_free, static_cast<double>(machine.now)) + 32 / set.bytes_per_cycle;
      if (!reads) continue;
      sectors[touched[i]] = static_cast<uint64_t>(dram_free) + set.dram;
      done = std::max(done, sectors[touched[i]]);
    }
  }
  return done;
}

constexpr int kSchedulers = 4, kQueue = 24;
constexpr uint64_t kBusy[kPipes] = {1, 2, 2, 2, 8, 1, 2, 2};  // cycles of a pipe for the instruction of a warp

// When the next instruction of a warp can follow, and its scoreboards, after it has run.
void account(Warp& w, const Instruction& in, Memory& memory, bool jumped) {
  const Settings& set = machine.settings;
  const uint64_t now = machine.now;
  w.ready = std::max(w.ready, now + static_cast<uint64_t>(std::max(1, in.stall)) + (jumped ? set.branch : 0));
  uint64_t done = now + static_cast<uint64_t>(in.latency), start = now;
  if (w.access.any || in.pipe == kMemory) {
    int busy = 1;
    const uint64_t data = w.access.any ? memory.cost(w.access, busy) : 0;
    const double begun = std::max(memory.pipe_free, static_cast<double>(now));
    memory.pipe_free = begun + busy;
    machine.statistics.busy[kMemory] += busy;
    start = static_cast<uint64_t>(begun) + static_cast<uint64_t>(busy) - 1;
    if (w.access.any) {
      const uint64_t own =
          (w.access.use == Use::kAtomic ? set.shared_atomic : set.shared) + (w.access.generic ? set.generic : 0);
      done = std::max(data, start + own);
    } else {
      done = start + static_cast<uint64_t>(in.latency);
    }
    if (!w.copies.back().empty()) w.copied = std::max(w.copied, done);
  }
  if (in.execute == handler("wait_for_copies")) w.ready = std::max(w.ready, w.copied);
  for (const auto& [board, when] : {std::pair{in.written, done}, std::pair{in.read, std::min(done, now + 12)}}) {
    if (board >= kScoreboards) continue;
    ++w.pending[static_cast<size_t>(board)];
    w.releases.emplace_back(when, board);
  }
}

}  // namespace

void Machine::run_timed() {
  constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  Memory memory;
  std::array<std::array<uint64_t, kPipes>, kSchedulers> free{};
  while (finished < total) {
    bool issued = false;
    uint64_t soonest = kNever;
    for (int scheduler = 0; scheduler < kSchedulers; ++scheduler) {
      // The oldest warp that can go on. Each scheduler has every fourth of a block.
      Warp* best = nullptr;
      uint64_t oldest = kNever;
      for (const auto& block : slots) {
        if (block == nullptr) continue;
        for (size_t i = static_cast<size_t>(scheduler); i < block->warps.size(); i += kSchedulers) {
          Warp& w = *block->warps[i];
          if (w.running == 0) continue;
          if (w.ready > now) {
            soonest = std::min(soonest, w.ready);
            continue;
          }
          std::erase_if(w.releases, [&](const auto& release) {
            if (release.first > now) return false;
            --w.pending[static_cast<size_t>(release.second)];
            return true;
          });
          const Instruction& in = kernel->code[static_cast<size_t>(w.at)];
          bool waits = false;
          for (int b = 0; b < kScoreboards; ++b) waits |= in.wait >> b & 1 && w.pending[static_cast<size_t>(b)] > 0;
          if (waits) {
            ++statistics.stalled[static_cast<size_t>(w.at)];
            for (const auto& release : w.releases) soonest = std::min(soonest, std::max(release.first, now + 1));
          } else if (free[scheduler][in.pipe] > now) {
            soonest = std::min(soonest, free[scheduler][in.pipe]);
          } else if (in.pipe == kMemory && memory.pipe_free > static_cast<double>(now + kQueue)) {  // its queue is full
            soonest = std::min(soonest, std::max(now + 1, static_cast<uint64_t>(memory.pipe_free) - kQueue + 1));
          } else if (const uint64_t age = block->began * kMostWarps * 2 + i; age < oldest) {
            oldest = age;
            best = &w;
          }
        }
      }
      if (best == nullptr) continue;
      const auto place = static_cast<size_t>(best->at);
      const Instruction& in = kernel->code[place];
      free[scheduler][in.pipe] = now + kBusy[in.pipe];
      issued = true;
      ++statistics.warp_instructions;
      statistics.lane_instructions += static_cast<uint64_t>(std::popcount(best->running));
      ++statistics.executed[place];
      if (in.pipe != kMemory) statistics.busy[in.pipe] += static_cast<double>(kBusy[in.pipe]) / kSchedulers;
      Block& block = *best->block;
      best->ready = now;
      execute(*best, in);
      account(*best, in, memory, best->at != static_cast<int>(place) + 1);
      if (best->live == 0) end_if_done(block);
    }
    if (issued)
      ++now;
    else if (soonest == kNever)
      deadlock();
    else
      now = std::max(now + 1, soonest);
    if (now > settings.most_steps) throw std::runtime_error("machine code: too many cycles in " + kernel->name);
  }
}

void Machine::launch(const emulation::Launched& launched) {
  const Kernel& k = kernels.at(launched.kernel);
  kernel = &k;
  threads = static_cast<int>(launched.threads);
  shared = k.shared + static_cast<int64_t>(launched.shared);
  grid_x = launched.grid_x;
  total = launched.grid_x * launched.grid_y;
  if (settings.most_blocks > 0) total = std::min(total, settings.most_blocks);
  next = finished = 0;
  now = 0;
  random = settings.seed * 77 + 1;

  // Constant bank 0: sizes of block and grid, where the stack begins, and the arguments.
  constexpr size_t kArguments = 0x210, kStack = 0x28;
  parameters.assign(kArguments, 0);
  const uint32_t sizes[] = {launched.threads, 1, 1, launched.grid_x, launched.grid_y, 1}, stack = kLocal;
  std::memcpy(parameters.data(), sizes, sizeof(sizes));
  std::memcpy(parameters.data() + kStack, &stack, sizeof(stack));
  parameters.insert(parameters.end(), launched.arguments, launched.arguments + launched.bytes);
  parameters.resize((parameters.size() + 7) / 8 * 8);

  // What may be touched, as ranges in order that do not overlap.
  std::vector<emulation::Memory> given(launched.memory, launched.memory + launched.count);
  for (const auto& [bank, bytes] : k.constants) {  // the fourth has addresses of variables
    if (bank != 4) continue;
    for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
      uint64_t address = 0;
      std::memcpy(&address, bytes.data() + i, 8);
      constexpr uint64_t kMostOfAVariable = 4096;
      if (address != 0) given.push_back({address, address + kMostOfAVariable});
    }
  }
  std::sort(given.begin(), given.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  memory.clear();
  last = {};
  for (const auto& range : given) {
    if (!memory.empty() && range.begin <= memory.back().end)
      memory.back().end = std::max(memory.back().end, range.end);
    else
      memory.push_back(range);
  }

  const int64_t registers = (k.registers + 7) / 8 * 8;
  int64_t resident = std::min<int64_t>({2048 / threads, 32, 65536 / (registers * threads), 233472 / (shared + 1024)});
  if (resident < 1)
    throw std::runtime_error("machine code: no block of " + k.name + " fits, with " + std::to_string(k.registers) +
                             " registers and " + std::to_string(shared) + " bytes of shared memory");
  if (settings.resident > 0) resident = settings.resident;
  statistics = {};
  statistics.executed.assign(k.code.size(), 0);
  statistics.stalled.assign(k.code.size(), 0);
  slots.clear();
  slots.resize(std::min<size_t>(static_cast<size_t>(resident), total));
  for (size_t slot = 0; slot < slots.size(); ++slot) begin(slot);
  if (settings.timed)
    run_timed();
  else
    run_untimed();
  statistics.cycles = now;
  results.push_back({k.name, static_cast<int>(resident), total, shared, statistics});
}

}  // namespace machine
