// The meaning of each instruction. decoding.py says which operands and parameters it hands to which of these.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "arithmetic.h"
#include "machine.h"

namespace machine {

void Step::fail(const std::string& what, int lane) const {
  char place[16];
  std::snprintf(place, sizeof(place), "%04x", static_cast<unsigned>(instruction.address));
  std::string message = "machine code: " + what + "; " + machine.kernel->name + " at " + place + ": " +
                        instruction.text + " (warp " + std::to_string(warp.id);
  if (warp.block != nullptr) message += " of block " + std::to_string(warp.block->index);
  if (lane >= 0) message += ", lane " + std::to_string(lane);
  throw std::runtime_error(message + ")");
}

// ---- operands
// --------------------------------------------------------------------------------------------------------

namespace {

Row same(uint32_t v) {
  Row r;
  r.fill(v);
  return r;
}

// A bank of constants, from which a step reads 1, 2 or 4 bytes at once.
class Bank {
 public:
  Bank(const Step& step, int number)
      : step_(step), begin_(machine.parameters.data()), size_(machine.parameters.size()) {
    if (number == 0) return;
    const auto found = machine.kernel->constants.find(number);
    if (found == machine.kernel->constants.end())
      step.fail("constant bank " + std::to_string(number) + " is not known");
    begin_ = reinterpret_cast<const unsigned char*>(found->second.data());
    size_ = found->second.size();
  }

  template <size_t kBytes = 4>
  uint32_t at(uint64_t offset) const {
    if (offset + kBytes > size_) step_.fail("constant beyond its bank");
    if (offset % kBytes != 0) step_.fail("misaligned constant");
    uint32_t v = 0;
    std::memcpy(&v, begin_ + offset, kBytes);
    return v;
  }

 private:
  const Step& step_;
  const unsigned char* begin_;
  size_t size_;
};

}  // namespace

Row Step::raw(const Operand& o, int word) const {
  switch (o.kind) {
    case Kind::kNone: return same(0);
    case Kind::kRegister: return o.index == kZeroRegister ? same(0) : warp.registers[o.index + word];
    case Kind::kUniform: return same(o.index == kZeroUniform ? 0 : warp.uniform[o.index + word]);
    case Kind::kImmediate: return same(static_cast<uint32_t>(o.value >> 32 * word));
    case Kind::kConstant: {
      const uint64_t base = o.uniform == kZeroUniform ? 0 : warp.uniform[o.uniform];
      const Bank bank(*this, o.bank);
      if (o.index == kZeroRegister) return same(bank.at(static_cast<uint32_t>(base + o.value) + 4 * word));
      Row r{};
      for (int l = 0; l < kLanes; ++l)
        if (lanes >> l & 1)
          r[l] = bank.at(static_cast<uint32_t>(base + warp.registers[o.index][l] + o.value) + 4 * word);
      return r;
    }
    default: fail("an operand that holds no value");
  }
}

// With the sign as integers have it.
Row Step::integer(size_t i) const {
  const Operand& o = operand(i);
  Row r = raw(o);
  for (uint32_t& v : r) {
    if (o.absolute) v = static_cast<int32_t>(v) < 0 ? 0u - v : v;
    if (o.negative) v = 0u - v;
    if (o.inverted) v = ~v;
  }
  return r;
}

Wide Step::wide(size_t i) const {
  const Operand& o = operand(i);
  const Row low = raw(o), high = raw(o, 1);
  Wide r;
  for (int l = 0; l < kLanes; ++l) {
    r[l] = pair(low[l], high[l]);
    if (o.negative) r[l] = 0 - r[l];
    if (o.inverted) r[l] = ~r[l];
  }
  return r;
}

std::array<float, kLanes> Step::real(size_t i) const {
  const Operand& o = operand(i);
  const Row r = raw(o);
  const uint32_t keep = o.absolute ? 0x7fffffffu : ~0u, flip = o.negative ? 0x80000000u : 0;
  std::array<float, kLanes> result;
  for (int l = 0; l < kLanes; ++l) result[l] = to_float((r[l] & keep) ^ flip);
  return result;
}

std::array<double, kLanes> Step::twice(size_t i) const {
  const Operand& o = operand(i);
  const Row low = raw(o), high = raw(o, 1);
  const uint32_t keep = o.absolute ? 0x7fffffffu : ~0u, flip = o.negative ? 0x80000000u : 0;
  std::array<double, kLanes> result;
  for (int l = 0; l < kLanes; ++l) result[l] = to_double(pair(low[l], (high[l] & keep) ^ flip));
  return result;
}

uint32_t Step::bits_of(const Operand& o) const {
  uint32_t v = ~0u;
  if (o.kind == Kind::kPredicate) v = warp.predicates[o.index];
  if (o.kind == Kind::kUniformPredicate) v = warp.uniform_predicates[o.index];
  return o.inverted ? ~v : v;
}

Wide Step::address(size_t i) const {
  const Operand& o = operand(i);
  Wide r;
  uint64_t base = static_cast<uint64_t>(o.value);
  if (o.uniform != kZeroUniform) base += warp.uniform[o.uniform];
  for (int l = 0; l < kLanes; ++l) {
    uint64_t v = base;
    if (o.index != kZeroRegister) {
      const uint32_t low = warp.registers[o.index][l];
      v += o.pair ? pair(low, warp.registers[o.index + 1][l]) : uint64_t{low} * static_cast<uint64_t>(o.scale);
    }
    r[l] = o.pair ? v : static_cast<uint32_t>(v);
  }
  return r;
}

void Step::put(size_t i, const Row& values, int word) {
  const Operand& o = operand(i);
  if (lanes == 0) return;
  if (o.kind == Kind::kUniform) {
    if (o.index != kZeroUniform) warp.uniform[o.index + word] = values[std::countr_zero(lanes)];
    return;
  }
  if (o.kind != Kind::kRegister || o.index == kZeroRegister) return;
  Row& to = warp.registers[o.index + word];
  for (int l = 0; l < kLanes; ++l) to[l] = lanes >> l & 1 ? values[l] : to[l];
}

void Step::put_wide(size_t i, const Wide& values) {
  Row low, high;
  for (int l = 0; l < kLanes; ++l)
    low[l] = static_cast<uint32_t>(values[l]), high[l] = static_cast<uint32_t>(values[l] >> 32);
  put(i, low);
  put(i, high, 1);
}

void Step::put_bits(size_t i, uint32_t values) {
  const Operand& o = operand(i);
  if (lanes == 0 || o.index == kTruePredicate) return;
  if (o.kind == Kind::kUniformPredicate)
    warp.uniform_predicates[o.index] = values & (lanes & -lanes) ? ~0u : 0;
  else if (o.kind == Kind::kPredicate)
    warp.predicates[o.index] = (warp.predicates[o.index] & ~lanes) | (values & lanes);
}

// ---- memory
// ----------------------------------------------------------------------------------------------------------

void Step::begin_access(Space space, Use use, int bytes) {
  warp.access.any = true;
  warp.access.generic = false;
  warp.access.space = space;
  warp.access.use = use;
  warp.access.bytes = bytes;
  warp.access.count = 0;
}

namespace {

// Whether what was done there is ordered before what this lane does now.
bool ordered(const Touch& touch, const Warp& warp, int lane) {
  if (touch.warp < 0 || (touch.warp == warp.id && touch.lane == lane)) return true;
  const uint32_t seen = warp.seen[touch.warp];
  return touch.warp == warp.id ? touch.clock < seen : touch.clock <= seen;
}

void look_for_hazards(const Step& s, Use use, uint32_t address, int bytes, int lane) {
  Warp& warp = s.warp;
  const bool atomic = use == Use::kAtomic;
  const Touch mine{static_cast<int8_t>(warp.id), static_cast<int8_t>(lane), atomic, s.instruction.address,
                   warp.seen[warp.id]};
  const auto found = [&](const char* what, const Touch& earlier) {
    machine.found(std::string(what) + (atomic || earlier.atomic ? " (atomic)" : ""), earlier.at, mine.at);
  };
  for (uint32_t a = address; a < address + static_cast<uint32_t>(bytes); ++a) {
    Byte& byte = warp.block->bytes[a];
    if (use == Use::kRead) {
      if (!ordered(byte.write, warp, lane)) found("read after write", byte.write);
      if (byte.read.warp != warp.id || byte.read.lane != lane) byte.read_before = byte.read;
      byte.read = mine;
    } else {
      if (!ordered(byte.write, warp, lane) && !(atomic && byte.write.atomic)) found("write after write", byte.write);
      if (!ordered(byte.read, warp, lane))
        found("write after read", byte.read);
      else if (!ordered(byte.read_before, warp, lane))
        found("write after read", byte.read_before);
      byte.write = mine;
    }
  }
}

}  // namespace

unsigned char* Step::memory(Space space, Use use, uint64_t address, int bytes, int lane) {
  Access& access = warp.access;
  access.addresses[access.count++] = address;
  if (address & static_cast<uint64_t>(bytes - 1))  // sizes are powers of two
    fail("misaligned address of " + std::to_string(bytes) + " bytes", lane);
  if (space == Space::kLocal) {
    if (address + bytes > kLocal) fail("local memory out of bounds", lane);
    return warp.local.data() + lane * kLocal + address;
  }
  if (space == Space::kShared) {
    Block& block = *warp.block;
    if (address < kSharedBegin || address + bytes > block.shared.size())
      fail("shared memory out of bounds: byte " + std::to_string(static_cast<int64_t>(address) - kSharedBegin) +
               " of " + std::to_string(block.shared.size() - kSharedBegin),
           lane);
    for (int i = 0; i < bytes; ++i) {
      if (use != Use::kWrite && !block.initialised[address + i]) {
        machine.found("uninitialised", instruction.address, instruction.address);
        break;
      }
      if (use == Use::kWrite) block.initialised[address + i] = true;
    }
    if (!block.bytes.empty()) look_for_hazards(*this, use, static_cast<uint32_t>(address), bytes, lane);
    return block.shared.data() + address;
  }
  const uint64_t end = address + static_cast<uint64_t>(bytes);
  if (const auto& last = machine.last; address < last.begin || end > last.end) {
    const auto& known = machine.memory;
    auto after =
        std::upper_bound(known.begin(), known.end(), address, [](uint64_t a, const auto& m) { return a < m.begin; });
    if (after == known.begin() || end > (--after)->end) fail("global memory out of bounds", lane);
    machine.last = *after;
  }
  return reinterpret_cast<unsigned char*>(address);
}

namespace {

// Generic addresses are of shared memory where they lie in its window, in all lanes or in none.
Space resolve(Step& s, Space space, bool generic, Wide& addresses) {
  if (!generic) return space;
  uint32_t shared = 0;
  for (int l = 0; l < kLanes; ++l) shared |= static_cast<uint32_t>(addresses[l] >> 32 == kSharedWindow) << l;
  if ((shared & s.lanes) == 0) return Space::kGlobal;
  if ((shared & s.lanes) != s.lanes) s.fail("generic addresses of different spaces");
  for (uint64_t& a : addresses) a = static_cast<uint32_t>(a);
  return Space::kShared;
}

// What one lane loads or stores; sizes that are known make single instructions.
void copy(void* to, const void* from, int bytes) {
  switch (bytes) {
    case 1: std::memcpy(to, from, 1); break;
    case 2: std::memcpy(to, from, 2); break;
    case 4: std::memcpy(to, from, 4); break;
    case 8: std::memcpy(to, from, 8); break;
    default: std::memcpy(to, from, 16);
  }
}

constexpr Space kSpaces[] = {Space::kGlobal, Space::kShared, Space::kLocal, Space::kGlobal};
constexpr int kGeneric = 3;

// destination, address; parameters: space, bytes, whether it is signed
void load(Step& s) {
  const int bytes = s.parameter(1), words = (bytes + 3) / 4;
  const bool generic = s.parameter(0) == kGeneric;
  Wide addresses = s.address(1);
  const Space space = resolve(s, kSpaces[s.parameter(0)], generic, addresses);
  s.begin_access(space, Use::kRead, bytes);
  s.warp.access.generic = generic;
  Row values[4]{};
  for (int l = 0; l < kLanes; ++l) {
    if (!(s.lanes >> l & 1)) continue;
    uint32_t word[4]{};
    copy(word, s.memory(space, Use::kRead, addresses[l], bytes, l), bytes);
    if (s.parameter(2) && bytes == 1) word[0] = static_cast<uint32_t>(static_cast<int8_t>(word[0]));
    if (s.parameter(2) && bytes == 2) word[0] = static_cast<uint32_t>(static_cast<int16_t>(word[0]));
    for (int i = 0; i < words; ++i) values[i][l] = word[i];
  }
  for (int i = 0; i < words; ++i) s.put(0, values[i], i);
}

// address, value; parameters: space, bytes
void store(Step& s) {
  const int bytes = s.parameter(1), words = (bytes + 3) / 4;
  const bool generic = s.parameter(0) == kGeneric;
  Wide addresses = s.address(0);
  const Space space = resolve(s, kSpaces[s.parameter(0)], generic, addresses);
  s.begin_access(space, Use::kWrite, bytes);
  s.warp.access.generic = generic;
  Row values[4];
  for (int i = 0; i < words; ++i) values[i] = s.raw(s.operand(1), i);
  for (int l = 0; l < kLanes; ++l) {
    if (!(s.lanes >> l & 1)) continue;
    uint32_t word[4];
    for (int i = 0; i < words; ++i) word[i] = values[i][l];
    copy(s.memory(space, Use::kWrite, addresses[l], bytes, l), word, bytes);
  }
}

enum Atomic { kAdd, kLeast, kMost, kExchange, kCompare, kIncrement, kAnd, kOr, kXor };

template <class T, class Signed>
T updated(int what, T old, T a, T b) {
  switch (what) {
    case kAdd: return old + a;
    case kLeast: return static_cast<T>(std::min(static_cast<Signed>(old), static_cast<Signed>(a)));
    case kMost: return static_cast<T>(std::max(static_cast<Signed>(old), static_cast<Signed>(a)));
    case kExchange: return a;
    case kCompare: return old == a ? b : old;
    case kIncrement: return old + 1;
    case kAnd: return old & a;
    case kOr: return old | a;
    default: return old ^ a;
  }
}

// destination, address, value, other value; parameters: space, bytes, what is done, whether it is signed
void atomic(Step& s) {
  const int bytes = s.parameter(1), what = s.parameter(2);
  const bool generic = s.parameter(0) == kGeneric, is_signed = s.parameter(3) != 0;
  Wide addresses = s.address(1);
  const Space space = resolve(s, kSpaces[s.parameter(0)], generic, addresses);
  s.begin_access(space, Use::kAtomic, bytes);
  s.warp.access.generic = generic;
  const Wide a = s.wide(2), b = s.wide(3);
  Wide old{};
  for (int l = 0; l < kLanes; ++l) {
    if (!(s.lanes >> l & 1)) continue;
    unsigned char* p = s.memory(space, Use::kAtomic, addresses[l], bytes, l);
    uint64_t result;
    std::memcpy(&old[l], p, static_cast<size_t>(bytes));
    if (bytes == 8) {
      result = is_signed ? updated<uint64_t, int64_t>(what, old[l], a[l], b[l])
                         : updated<uint64_t, uint64_t>(what, old[l], a[l], b[l]);
    } else {
      const auto x = static_cast<uint32_t>(old[l]), y = static_cast<uint32_t>(a[l]), z = static_cast<uint32_t>(b[l]);
      result = is_signed ? updated<uint32_t, int32_t>(what, x, y, z) : updated<uint32_t, uint32_t>(what, x, y, z);
    }
    std::memcpy(p, &result, static_cast<size_t>(bytes));
  }
  if (bytes == 8) return s.put_wide(0, old);
  s.compute(0, [&](int l) { return static_cast<uint32_t>(old[l]); });
}

// to, from; parameters: bytes
void copy_ahead(Step& s) {
  const int bytes = s.parameter(0);
  const Wide to = s.address(0), from = s.address(1);
  s.begin_access(Space::kGlobal, Use::kRead, bytes);
  for (int l = 0; l < kLanes; ++l) {
    if (!(s.lanes >> l & 1)) continue;
    s.memory(Space::kGlobal, Use::kRead, from[l], bytes, l);
    s.warp.copies.back().push_back({to[l], from[l], bytes, l});
  }
}

// destination, constant; parameters: bytes, whether it is signed
void load_constant(Step& s) {
  const Operand& o = s.operand(1);
  const int bytes = s.parameter(0);
  const uint64_t base = static_cast<uint64_t>(o.value) + (o.uniform == kZeroUniform ? 0 : s.warp.uniform[o.uniform]);
  const Bank bank(s, o.bank);
  for (int word = 0; word < (bytes + 3) / 4; ++word) {
    Row r{};
    for (int l = 0; l < kLanes; ++l) {
      if (!(s.lanes >> l & 1)) continue;
      const uint64_t offset = base + (o.index == kZeroRegister ? 0 : s.warp.registers[o.index][l]);
      const uint64_t place = static_cast<uint32_t>(offset) + 4 * word;
      uint32_t v = bytes == 1 ? bank.at<1>(place) : bytes == 2 ? bank.at<2>(place) : bank.at(place);
      if (s.parameter(1)) v = static_cast<uint32_t>(bytes == 1 ? static_cast<int8_t>(v) : static_cast<int16_t>(v));
      r[l] = v;
    }
    s.put(0, r, word);
  }
}

// ---- integers
// --------------------------------------------------------------------------------------------------------

uint32_t carry_of(uint32_t bits, int lane) { return bits >> lane & 1; }

// destination, carry out, a, b, c, carry in; parameters: 0 the lower half, 1 all, 2 the upper half; unsigned
void multiply_add(Step& s) {
  const Row a = s.integer(2), b = s.integer(3);
  const uint32_t in = s.operand(5).kind == Kind::kNone ? 0 : s.bits(5);
  if (s.parameter(0) == 0) {
    const Row c = s.integer(4);
    return s.compute(0, [&](int l) { return a[l] * b[l] + c[l] + carry_of(in, l); });
  }
  const Wide c = s.wide(4);
  Wide sum;
  uint32_t out = 0;
  for (int l = 0; l < kLanes; ++l) {
    const uint64_t product =
        s.parameter(1)
            ? uint64_t{a[l]} * b[l]
            : static_cast<uint64_t>(int64_t{static_cast<int32_t>(a[l])} * int64_t{static_cast<int32_t>(b[l])});
    sum[l] = product + c[l] + carry_of(in, l);
    out |= static_cast<uint32_t>(sum[l] < product) << l;
  }
  if (s.parameter(0) == 1)
    s.put_wide(0, sum);
  else
    s.compute(0, [&](int l) { return static_cast<uint32_t>(sum[l] >> 32); });
  s.put_bits(1, out);
}

// destination, two carries out, a, b, c, two carries in
void add3(Step& s) {
  Wide sum{};
  for (size_t i = 3; i < 6; ++i) {
    const Operand& o = s.operand(i);
    const Row r = s.raw(o);
    // The sum is of one's complements and ones, which decides about the carry.
    const bool complement = o.negative || o.inverted;
    for (int l = 0; l < kLanes; ++l) sum[l] += uint64_t{complement ? ~r[l] : r[l]} + (o.negative ? 1 : 0);
  }
  for (size_t i = 6; i < 8; ++i) {
    if (s.operand(i).kind == Kind::kNone) continue;
    const uint32_t in = s.bits(i);
    for (int l = 0; l < kLanes; ++l) sum[l] += carry_of(in, l);
  }
  uint32_t once = 0, twice = 0;
  for (int l = 0; l < kLanes; ++l) {
    once |= static_cast<uint32_t>(sum[l] >> 32 >= 1) << l;
    twice |= static_cast<uint32_t>(sum[l] >> 32 >= 2) << l;
  }
  s.compute(0, [&](int l) { return static_cast<uint32_t>(sum[l]); });
  s.put_bits(1, once);
  s.put_bits(2, twice);
}

// destination, carry out, a, b, a's upper half, carry in; parameters: shift; 0 lower half, 1 upper half, 2 upper half
// of the word a with its sign
void scaled_add(Step& s) {
  const Row a = s.integer(2), b = s.integer(3), high = s.integer(4);
  const uint32_t in = s.operand(5).kind == Kind::kNone ? 0 : s.bits(5);
  const int shift = s.parameter(0), part = s.parameter(1);
  uint32_t out = 0;
  Row r;
  for (int l = 0; l < kLanes; ++l) {
    uint32_t v = a[l] << shift;
    if (part == 1) v = static_cast<uint32_t>(pair(a[l], high[l]) << shift >> 32);
    if (part == 2) v = static_cast<uint32_t>(static_cast<uint64_t>(int64_t{static_cast<int32_t>(a[l])}) << shift >> 32);
    const uint64_t sum = uint64_t{v} + b[l] + carry_of(in, l);
    out |= static_cast<uint32_t>(sum >> 32) << l;
    r[l] = static_cast<uint32_t>(sum);
  }
  s.put(0, r);
  s.put_bits(1, out);
}

// predicate, destination, a, b, c, predicate that is or-ed; parameters: table
void logic3(Step& s) {
  const Row a = s.integer(2), b = s.integer(3), c = s.integer(4);
  Row r;
  uint32_t set = 0;
  switch (s.parameter(0)) {
    case 0xc0:
      for (int l = 0; l < kLanes; ++l) r[l] = a[l] & b[l];
      break;
    case 0xfc:
      for (int l = 0; l < kLanes; ++l) r[l] = a[l] | b[l];
      break;
    default:
      for (int l = 0; l < kLanes; ++l) r[l] = logic(s.parameter(0), a[l], b[l], c[l]);
  }
  for (int l = 0; l < kLanes; ++l) set |= static_cast<uint32_t>(r[l] != 0) << l;
  const uint32_t other = s.bits(5);
  s.put(1, r);
  s.put_bits(0, set | other);
}

// two predicates, a, b, c; parameters: their tables
void predicate_logic(Step& s) {
  const uint32_t a = s.bits(2), b = s.bits(3), c = s.bits(4);
  s.put_bits(0, logic(s.parameter(0), a, b, c));
  s.put_bits(1, logic(s.parameter(1), a, b, c));
}

enum Comparison { kLess, kLessEqual, kGreater, kGreaterEqual, kEqual, kNotEqual, kIsNumber, kIsNan };

template <class T>
bool compared(int how, T a, T b) {
  switch (how) {
    case kLess: return a < b;
    case kLessEqual: return a <= b;
    case kGreater: return a > b;
    case kGreaterEqual: return a >= b;
    case kEqual: return a == b;
    default: return a != b;
  }
}

uint32_t joined(int how, uint32_t a, uint32_t b) { return how == 0 ? a & b : how == 1 ? a | b : a ^ b; }

// two predicates, x, y, other predicate, result for the lower halves; parameters: comparison, unsigned, how the other
// predicate is joined, whether these are the upper halves
void compare_integers(Step& s) {
  const Row x = s.integer(2), y = s.integer(3);
  const int how = s.parameter(0);
  uint32_t result = 0;
  if (s.parameter(1)) {
    for (int l = 0; l < kLanes; ++l) result |= static_cast<uint32_t>(compared(how, x[l], y[l])) << l;
  } else {
    for (int l = 0; l < kLanes; ++l)
      result |= static_cast<uint32_t>(compared(how, static_cast<int32_t>(x[l]), static_cast<int32_t>(y[l]))) << l;
  }
  if (s.parameter(3)) {
    uint32_t equal = 0;
    for (int l = 0; l < kLanes; ++l) equal |= static_cast<uint32_t>(x[l] == y[l]) << l;
    const uint32_t lower = s.bits(5);
    result = how == kNotEqual ? result | lower : (result & ~equal) | (equal & lower);
  }
  const uint32_t other = s.bits(4);
  s.put_bits(0, joined(s.parameter(2), result, other));
  s.put_bits(1, joined(s.parameter(2), ~result, other));
}

void absolute(Step& s) {
  const Row a = s.integer(1);
  s.compute(0, [&](int l) { return static_cast<int32_t>(a[l]) < 0 ? 0u - a[l] : a[l]; });
}

// destination, a, b, c, which; parameters: unsigned, whether a and b are added first, whether c belongs to it, halves
void extreme_integer(Step& s) {
  const Row a = s.integer(1), b = s.integer(2), c = s.integer(3);
  const uint32_t smaller = s.bits(4);
  const auto choose = [&](uint32_t x, uint32_t y, int l) {
    const bool less = smaller >> l & 1;
    if (s.parameter(3)) {
      const auto low = extreme<uint16_t>(static_cast<uint16_t>(x), static_cast<uint16_t>(y), less);
      const auto high = extreme<uint16_t>(static_cast<uint16_t>(x >> 16), static_cast<uint16_t>(y >> 16), less);
      return low | static_cast<uint32_t>(high) << 16;
    }
    return s.parameter(0)
               ? extreme<uint32_t>(x, y, less)
               : static_cast<uint32_t>(extreme<int32_t>(static_cast<int32_t>(x), static_cast<int32_t>(y), less));
  };
  s.compute(0, [&](int l) {
    const uint32_t first = s.parameter(1) ? a[l] + b[l] : choose(a[l], b[l], l);
    return s.parameter(2) ? choose(first, c[l], l) : first;
  });
}

void select(Step& s) {
  const Row a = s.integer(1), b = s.integer(2);
  const uint32_t first = s.bits(3);
  s.compute(0, [&](int l) { return first >> l & 1 ? a[l] : b[l]; });
}

// destination, lower word, by, upper word; parameters: left, upper word of the result, signed, up to 64 places instead
// of 32, wraps around. Both words are shifted together.
void shift(Step& s) {
  const Row low = s.integer(1), by = s.integer(2), high = s.integer(3);
  const bool left = s.parameter(0), upper = s.parameter(1), is_signed = s.parameter(2), far = s.parameter(3),
             wraps = s.parameter(4);
  s.compute(0, [&](int l) -> uint32_t {
    const uint32_t n = wraps ? by[l] & (far ? 63 : 31) : far ? by[l] : std::min(by[l], 32u);
    const uint64_t v = pair(low[l], high[l]);
    const uint64_t r = left        ? shifted_left(v, n)
                       : is_signed ? shifted_right(static_cast<int64_t>(v), n)
                                   : shifted_right(v, n);
    return static_cast<uint32_t>(upper ? r >> 32 : r);
  });
}

void permute(Step& s) {
  const Row a = s.integer(1), selector = s.integer(2), b = s.integer(3);
  s.compute(0, [&](int l) { return permuted(a[l], selector[l], b[l]); });
}

void move(Step& s) { s.put(0, s.integer(1)); }
void clear(Step& s) {
  for (int word = 0; word < s.parameter(0); ++word) s.put(0, same(0), word);
}
void reverse(Step& s) {
  const Row a = s.integer(1);
  s.compute(0, [&](int l) { return reversed(a[l]); });
}
void count(Step& s) {
  const Row a = s.integer(1);
  s.compute(0, [&](int l) { return static_cast<uint32_t>(std::popcount(a[l])); });
}
void find_leading_one(Step& s) {
  Row a = s.integer(1);
  if (s.parameter(1))
    for (uint32_t& v : a) v = static_cast<int32_t>(v) < 0 ? ~v : v;
  s.compute(0, [&](int l) { return leading_one(a[l], s.parameter(0)); });
}

// destination, register, bits that are replaced
void predicates_to_register(Step& s) {
  const Row a = s.integer(1), mask = s.integer(2);
  s.compute(0, [&](int l) {
    uint32_t v = 0;
    for (int p = 0; p < 7; ++p) v |= (s.warp.predicates[p] >> l & 1) << p;
    return (v & mask[l]) | (a[l] & ~mask[l]);
  });
}
void register_to_predicates(Step& s) {
  const Row a = s.integer(0), mask = s.integer(1);
  for (int p = 0; p < 7; ++p) {
    if (!(mask[0] >> p & 1)) continue;
    uint32_t set = 0;
    for (int l = 0; l < kLanes; ++l) set |= (a[l] >> p & 1) << l;
    s.warp.predicates[p] = (s.warp.predicates[p] & ~s.lanes) | (set & s.lanes);
  }
}

enum Special { kThread, kBlockX, kBlockY, kZero, kLane, kLanesBelow, kWindow, kCycles };

void special(Step& s) {
  s.compute(0, [&](int l) -> uint32_t {
    switch (s.parameter(0)) {
      case kThread: return static_cast<uint32_t>(s.warp.id * kLanes + l);
      case kBlockX: return s.warp.block->x;
      case kBlockY: return s.warp.block->y;
      case kLane: return static_cast<uint32_t>(l);
      case kLanesBelow: return (1u << l) - 1;
      case kWindow: return kSharedWindow;
      case kCycles: return static_cast<uint32_t>(machine.now);
      default: return 0;
    }
  });
}

// ---- floating point
// --------------------------------------------------------------------------------------------------

// destination, a, b, c; parameters: 0 sum, 1 product, 2 fused; direction of rounding; flush; saturate
void arithmetic(Step& s) {
  const auto a = s.real(1), b = s.real(2), c = s.real(3);
  const int what = s.parameter(0), direction = s.parameter(1);
  std::array<float, kLanes> r;
  if (direction != 0) {
    for (int l = 0; l < kLanes; ++l)
      r[l] = rounded(direction, [&] {
        volatile float x = a[l], y = b[l], z = c[l];
        return what == 0 ? x + y : what == 1 ? x * y : __builtin_fmaf(x, y, z);
      });
  } else if (what == 0) {
    for (int l = 0; l < kLanes; ++l) r[l] = a[l] + b[l];
  } else if (what == 1) {
    for (int l = 0; l < kLanes; ++l) r[l] = a[l] * b[l];
  } else {
    for (int l = 0; l < kLanes; ++l) r[l] = __builtin_fmaf(a[l], b[l], c[l]);
  }
  if (s.parameter(2))
    for (float& v : r) v = flushed(v);
  if (s.parameter(3))
    for (float& v : r) v = saturated(v);
  s.compute(0, [&](int l) { return to_bits(r[l]); });
}

void arithmetic_double(Step& s) {
  const auto a = s.twice(1), b = s.twice(2), c = s.twice(3);
  const int what = s.parameter(0), direction = s.parameter(1);
  Wide r;
  for (int l = 0; l < kLanes; ++l) {
    const auto f = [&] {
      volatile double x = a[l], y = b[l], z = c[l];
      return what == 0 ? x + y : what == 1 ? x * y : __builtin_fma(x, y, z);
    };
    r[l] = to_bits(direction == 0 ? f() : rounded(direction, f));
  }
  s.put_wide(0, r);
}

template <class T>
uint32_t compare_reals(const Step& s, std::array<T, kLanes> x, std::array<T, kLanes> y) {
  const int how = s.parameter(0);
  const bool unordered = s.parameter(1);
  uint32_t result = 0;
  for (int l = 0; l < kLanes; ++l) {
    const bool nan = x[l] != x[l] || y[l] != y[l];
    const bool holds = how == kIsNan ? nan : how == kIsNumber ? !nan : nan ? unordered : compared(how, x[l], y[l]);
    result |= static_cast<uint32_t>(holds) << l;
  }
  return result;
}

// two predicates, x, y, other predicate; parameters: comparison, whether NaN counts as true, how it is joined, flush
void compare_floats(Step& s) {
  auto x = s.real(2), y = s.real(3);
  if (s.parameter(3))
    for (int l = 0; l < kLanes; ++l) x[l] = flushed(x[l]), y[l] = flushed(y[l]);
  const uint32_t result = compare_reals(s, x, y), other = s.bits(4);
  s.put_bits(0, joined(s.parameter(2), result, other));
  s.put_bits(1, joined(s.parameter(2), ~result, other));
}
void compare_doubles(Step& s) {
  const uint32_t result = compare_reals(s, s.twice(2), s.twice(3)), other = s.bits(4);
  s.put_bits(0, joined(s.parameter(2), result, other));
  s.put_bits(1, joined(s.parameter(2), ~result, other));
}

// Of a minimum (or maximum) of doubles: whether it is x, and whether it is NaN. two predicates, x, y; parameters: most
void choose_double(Step& s) {
  const auto x = s.twice(2), y = s.twice(3);
  const bool most = s.parameter(0);
  uint32_t first = 0, nan = 0;
  for (int l = 0; l < kLanes; ++l) {
    const bool better = most ? x[l] > y[l] : x[l] < y[l];
    const bool tie = x[l] == y[l] && std::signbit(x[l]) != most;
    first |= static_cast<uint32_t>(better || tie || y[l] != y[l]) << l;
    nan |= static_cast<uint32_t>(x[l] != x[l] && y[l] != y[l]) << l;
  }
  s.put_bits(0, first);
  s.put_bits(1, nan);
}

// destination, a, b, whether the smaller; parameters: whether NaN wins
void extreme_float(Step& s) {
  const auto a = s.real(1), b = s.real(2);
  const uint32_t smaller = s.bits(3);
  s.compute(0, [&](int l) { return to_bits(extreme(a[l], b[l], smaller >> l & 1, s.parameter(0) != 0)); });
}

void select_float(Step& s) {
  const auto a = s.real(1), b = s.real(2);
  const uint32_t first = s.bits(3);
  s.compute(0, [&](int l) { return to_bits(first >> l & 1 ? a[l] : b[l]); });
}

enum Function { kReciprocal, kReciprocalRoot };
void function(Step& s) {
  const auto a = s.real(1);
  s.compute(0,
            [&](int l) { return to_bits(s.parameter(0) == kReciprocal ? reciprocal(a[l]) : reciprocal_root(a[l])); });
}
void reciprocal_of_double(Step& s) {
  const Row a = s.integer(1);
  s.compute(0, [&](int l) { return reciprocal_high(a[l]); });
}
void check_division(Step& s) {
  const auto a = s.real(1), b = s.real(2);
  uint32_t hard = 0;
  for (int l = 0; l < kLanes; ++l) hard |= static_cast<uint32_t>(division_is_hard(a[l], b[l])) << l;
  s.put_bits(0, hard);
}

// ---- conversions
// -----------------------------------------------------------------------------------------------------

// destination, source; parameters: bits and sign of the source (-32 is int32), to double, upwards
void from_integer(Step& s) {
  const int type = s.parameter(0);
  const bool up = s.parameter(2);
  const Row low = s.integer(1);
  const Wide all = type == 64 || type == -64 ? s.wide(1) : Wide{};
  const auto convert = [&](int l, auto give) {
    switch (type) {
      case 64: return give(all[l]);
      case -64: return give(static_cast<int64_t>(all[l]));
      case 16: return give(static_cast<uint32_t>(static_cast<uint16_t>(low[l])));
      case -16: return give(static_cast<int32_t>(static_cast<int16_t>(low[l])));
      case 8: return give(static_cast<uint32_t>(static_cast<uint8_t>(low[l] >> 8 * s.operand(1).value)));
      case -8: return give(static_cast<int32_t>(static_cast<int8_t>(low[l] >> 8 * s.operand(1).value)));
      case 32: return give(low[l]);
      default: return give(static_cast<int32_t>(low[l]));
    }
  };
  if (s.parameter(1)) {
    Wide r;
    for (int l = 0; l < kLanes; ++l) r[l] = convert(l, [](auto v) { return to_bits(static_cast<double>(v)); });
    return s.put_wide(0, r);
  }
  s.compute(0, [&](int l) {
    return convert(l, [&](auto v) { return to_bits(up ? rounded_up(v) : static_cast<float>(v)); });
  });
}

// destination, source; parameters: bits and sign of the result, from double, direction
void to_integers(Step& s) {
  const int type = s.parameter(0), direction = s.parameter(2);
  std::array<double, kLanes> a;
  if (s.parameter(1)) {
    a = s.twice(1);
  } else {
    const auto f = s.real(1);
    for (int l = 0; l < kLanes; ++l) a[l] = f[l];
  }
  if (type == 64 || type == -64) {
    Wide r;
    for (int l = 0; l < kLanes; ++l) {
      const double v = whole(a[l], direction);
      r[l] = type == 64 ? to_integer<uint64_t>(v) : static_cast<uint64_t>(to_integer<int64_t>(v));
    }
    return s.put_wide(0, r);
  }
  s.compute(0, [&](int l) {
    const double v = whole(a[l], direction);
    return type == 32 ? to_integer<uint32_t>(v) : static_cast<uint32_t>(to_integer<int32_t>(v));
  });
}

// parameters: direction
void round_to_whole(Step& s) {
  const auto a = s.real(1);
  s.compute(0, [&](int l) { return to_bits(static_cast<float>(whole(a[l], s.parameter(0)))); });
}
void widen(Step& s) {
  const auto a = s.real(1);
  Wide r;
  for (int l = 0; l < kLanes; ++l) r[l] = to_bits(static_cast<double>(a[l]));
  s.put_wide(0, r);
}
void narrow(Step& s) {
  const auto a = s.twice(1);
  s.compute(0, [&](int l) { return to_bits(static_cast<float>(a[l])); });
}
void widen_half(Step& s) {
  const Row a = s.integer(1);
  s.compute(0, [&](int l) { return to_bits(from_half(a[l] >> 16 * s.operand(1).value)); });
}

// ---- between lanes
// ---------------------------------------------------------------------------------------------------

// whether inside, destination, value, by, clamp; parameters: mode
void shuffle(Step& s) {
  const Row a = s.integer(2), by = s.integer(3), clamp = s.integer(4);
  Row r{};
  uint32_t inside = 0;
  for (int l = 0; l < kLanes; ++l) {
    if (!(s.lanes >> l & 1)) continue;
    int source;
    inside |= static_cast<uint32_t>(shuffle_source(s.parameter(0), l, by[l], clamp[l], source)) << l;
    if (!(s.lanes >> source & 1))
      machine.found("shuffle from an absent lane", s.instruction.address, s.instruction.address);
    r[l] = a[source];
  }
  s.put(1, r);
  s.put_bits(0, inside);
}

// destination, predicate, bits; parameters: whether all
void vote(Step& s) {
  const uint32_t set = s.bits(2) & s.lanes;
  const bool holds = s.parameter(0) ? set == s.lanes : set != 0;
  s.put(0, same(set));
  s.put_bits(1, holds ? ~0u : 0);
}

enum Reduction { kSum, kLowest, kHighest, kAllBits, kAnyBit, kOddBits };
void reduce(Step& s) {
  const Row a = s.integer(1);
  const bool is_signed = s.parameter(1);
  bool first = true;
  uint32_t r = 0;
  for (int l = 0; l < kLanes; ++l) {
    if (!(s.lanes >> l & 1)) continue;
    const uint32_t v = a[l];
    const bool less = is_signed ? static_cast<int32_t>(v) < static_cast<int32_t>(r) : v < r;
    switch (s.parameter(0)) {
      case kSum: r += v; break;
      case kLowest: r = first || less ? v : r; break;
      case kHighest: r = first || !less ? v : r; break;
      case kAllBits: r = first ? v : r & v; break;
      case kAnyBit: r |= v; break;
      default: r ^= v;
    }
    first = false;
  }
  s.put(0, same(r));
}

// ---- control
// ---------------------------------------------------------------------------------------------------------

void nothing(Step&) {}
void unsupported(Step& s) { s.fail("an instruction that is not understood"); }

// condition; parameters: target
void branch(Step& s) {
  s.lanes &= s.bits(0);
  s.move_to(s.parameter(0));
}
// Where lanes are missing, to a slow path for each of them. mask; parameters: target
void branch_if_divided(Step& s) {
  if (s.running != s.raw(s.operand(0))[0]) s.next = s.parameter(0);
}
void return_to(Step& s) {
  if (s.lanes == 0) return;
  const Row& to = s.warp.registers[s.operand(0).index];
  const uint32_t first = to[std::countr_zero(s.lanes)];
  for (int l = 0; l < kLanes; ++l)
    if (s.lanes >> l & 1 && to[l] != first) s.fail("lanes return to different places", l);
  s.move_to(static_cast<int>(first / 16));
}
void exit_program(Step& s) {
  if (s.lanes == 0) return;
  s.warp.place(s.running & ~s.lanes, s.warp.at + 1);
  leave(s.warp, s.lanes);
  s.next = -1;
}

// parameters: barrier of convergence
void begin_convergence(Step& s) { s.warp.convergence[s.parameter(0)] = s.lanes; }

void release_converged(Warp& w, int b) {
  const uint32_t there = w.converged[b];
  if (there == 0 || (there & w.live) != (w.convergence[b] & w.live)) return;
  w.converged[b] = 0;
  w.blocked &= ~there;
  w.ahead = 0;
  for (int l = 0; l < kLanes; ++l)
    if (there >> l & 1) ++w.places[l];
}
void converge(Step& s) {
  Warp& w = s.warp;
  const int b = s.parameter(0);
  const uint32_t expected = w.convergence[b] & w.live, waits = s.running & expected, passes = s.running & ~expected;
  if (waits == s.running && waits == expected && w.converged[b] == 0) return;  // all of them at once
  w.place(passes, w.at + 1);
  w.place(waits, w.at);
  w.converged[b] |= waits;
  w.blocked |= waits;
  release_converged(w, b);
  s.next = -1;
}
// condition; parameters: barrier of convergence
void give_up_convergence(Step& s) {
  s.warp.convergence[s.parameter(0)] &= ~(s.lanes & s.bits(0));
  release_converged(s.warp, s.parameter(0));
}

// mask, if there is one; parameters: whether the instruction names the lanes
void meet_warp(Step& s) {
  Warp& w = s.warp;
  uint32_t mask = ~0u;
  if (s.parameter(0)) {
    const Row masks = s.raw(s.operand(0));
    mask = masks[std::countr_zero(s.running)];
    for (int l = 0; l < kLanes; ++l)
      if (s.running >> l & 1 && !(masks[l] >> l & 1)) s.fail("a lane meets others under a mask that leaves it out", l);
  }
  if ((s.running & w.live) == (mask & w.live)) {
    if (s.running == w.live) ++w.seen[w.id];
    return;
  }
  const auto meeting = std::find_if(w.meetings.begin(), w.meetings.end(), [&](auto& m) { return m.first == mask; });
  if (meeting == w.meetings.end())
    w.meetings.emplace_back(mask, s.running);
  else
    meeting->second |= s.running;
  w.place(s.running, w.at);
  w.blocked |= s.running;
  leave(w, 0);
  s.next = -1;
}

// barrier, threads; parameters: whether the warp waits
void meet_block(Step& s) {
  Warp& w = s.warp;
  if (s.lanes == 0) return;
  const uint32_t id = s.raw(s.operand(0))[0];
  const uint32_t threads = s.operand(1).kind == Kind::kNone ? 0 : s.raw(s.operand(1))[0];
  if (id >= kBarriers) s.fail("barrier " + std::to_string(id));
  Barrier& barrier = w.block->barriers[id];
  if (s.lanes != w.live)
    machine.found("barrier that a part of a warp reaches", s.instruction.address, s.instruction.address);
  if (barrier.arrived > 0 && barrier.expected != static_cast<int>(threads))
    s.fail("barrier " + std::to_string(id) + " with " + std::to_string(threads) + " threads instead of " +
           std::to_string(barrier.expected));
  barrier.expected = static_cast<int>(threads);
  barrier.arrived += std::popcount(s.lanes);
  for (int i = 0; i < kMostWarps; ++i) barrier.clock[i] = std::max(barrier.clock[i], w.seen[i]);
  ++w.seen[w.id];
  if (s.parameter(0)) {
    w.place(s.running & ~s.lanes, w.at + 1);
    w.place(s.lanes, w.at);
    w.blocked |= s.lanes;
    barrier.waiting.emplace_back(&w, s.lanes);
    s.next = -1;
  }
  check_barrier(*w.block, barrier);
}

void commit_copies(Step& s) { s.warp.copies.emplace_back(); }
// parameters: how many groups may still be under way
void wait_for_copies(Step& s) { finish_copies(s, static_cast<size_t>(s.parameter(0))); }

const std::unordered_map<std::string, Handler> kHandlers = {
    {"load", load},
    {"store", store},
    {"atomic", atomic},
    {"load_constant", load_constant},
    {"copy_ahead", copy_ahead},
    {"commit_copies", commit_copies},
    {"wait_for_copies", wait_for_copies},
    {"multiply_add", multiply_add},
    {"add3", add3},
    {"scaled_add", scaled_add},
    {"logic3", logic3},
    {"predicate_logic", predicate_logic},
    {"compare_integers", compare_integers},
    {"absolute", absolute},
    {"extreme_integer", extreme_integer},
    {"select", select},
    {"shift", shift},
    {"permute", permute},
    {"move", move},
    {"clear", clear},
    {"reverse", reverse},
    {"count", count},
    {"find_leading_one", find_leading_one},
    {"predicates_to_register", predicates_to_register},
    {"register_to_predicates", register_to_predicates},
    {"special", special},
    {"arithmetic", arithmetic},
    {"arithmetic_double", arithmetic_double},
    {"compare_floats", compare_floats},
    {"compare_doubles", compare_doubles},
    {"choose_double", choose_double},
    {"extreme_float", extreme_float},
    {"select_float", select_float},
    {"function", function},
    {"reciprocal_of_double", reciprocal_of_double},
    {"check_division", check_division},
    {"from_integer", from_integer},
    {"to_integers", to_integers},
    {"round_to_whole", round_to_whole},
    {"widen", widen},
    {"narrow", narrow},
    {"widen_half", widen_half},
    {"shuffle", shuffle},
    {"vote", vote},
    {"reduce", reduce},
    {"nothing", nothing},
    {"unsupported", unsupported},
    {"branch", branch},
    {"branch_if_divided", branch_if_divided},
    {"return_to", return_to},
    {"exit_program", exit_program},
    {"begin_convergence", begin_convergence},
    {"converge", converge},
    {"give_up_convergence", give_up_convergence},
    {"meet_warp", meet_warp},
    {"meet_block", meet_block},
};

}  // namespace

void Step::move_to(int target) {
  if (lanes == 0) return;
  if (lanes == running) {
    next = target;
    return;
  }
  ++machine.statistics.divergent_branches;
  warp.place(lanes, target);
  warp.place(running & ~lanes, warp.at + 1);
  next = -1;
}

// Lanes end; those that waited for them at a meeting or to converge go on.
void leave(Warp& w, uint32_t lanes) {
  w.live &= ~lanes;
  for (int b = 0; b < kBarriers; ++b) release_converged(w, b);
  for (size_t i = 0; i < w.meetings.size();) {
    const auto [mask, there] = w.meetings[i];
    if ((there & w.live) != (mask & w.live)) {
      ++i;
      continue;
    }
    w.meetings.erase(w.meetings.begin() + static_cast<std::ptrdiff_t>(i));
    w.blocked &= ~there;
    if ((mask & w.live) == w.live) ++w.seen[w.id];
    for (int l = 0; l < kLanes; ++l)
      if (there >> l & 1) ++w.places[l];
  }
}

void finish_copies(Step& s, size_t most) {
  auto& groups = s.warp.copies;
  while (groups.size() > most + 1) {
    for (const Copy& copy : groups.front()) {
      s.warp.access.count = 0;
      unsigned char* to = s.memory(Space::kShared, Use::kWrite, copy.to, copy.bytes, copy.lane);
      std::memcpy(to, reinterpret_cast<const void*>(copy.from), static_cast<size_t>(copy.bytes));
    }
    groups.erase(groups.begin());
  }
  s.warp.access.any = false;
  s.warp.access.count = 0;
}

Handler handler(const std::string& name) {
  const auto found = kHandlers.find(name);
  if (found == kHandlers.end()) throw std::invalid_argument("no handler " + name);
  return found->second;
}

}  // namespace machine
