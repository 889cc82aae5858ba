// Work space of the CPU operators.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace fastcam {

// Hands out aligned, uninitialised arrays that live as long as it does. A warm arena's memory stays with the thread
// for its next one, up to a limit: pages that are new to the process cost more than what most kernels do with them.
class Arena {
 public:
  explicit Arena(bool warm = false) : kept_(warm && !kept().taken ? &kept() : nullptr) {
    if (kept_) kept_->taken = true;
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  ~Arena() {
    if (!kept_) return;
    kept_->taken = false;
    const size_t wanted = used_ + outside_;
    if (outside_ == 0 || wanted > kMostKept) return;
    kept_->memory.reset(static_cast<char*>(std::aligned_alloc(64, wanted)));
    kept_->size = kept_->memory ? wanted : 0;
  }

  template <class T>
  T* array(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count > 0 ? count : 1) * sizeof(T) + 63) / 64 * 64;
    if (kept_ && used_ + bytes <= kept_->size) {
      used_ += bytes;
      return reinterpret_cast<T*>(kept_->memory.get() + used_ - bytes);
    }
    void* p = std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    blocks_.emplace_back(static_cast<char*>(p));
    outside_ += bytes;
    return static_cast<T*>(p);
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  using Memory = std::unique_ptr<char, Free>;
  struct Kept {
    Memory memory;
    size_t size = 0;
    bool taken = false;
  };
  static constexpr size_t kMostKept = size_t{8} << 20;
  static Kept& kept() {
    thread_local Kept memory;
    return memory;
  }

  Kept* kept_;
  size_t used_ = 0, outside_ = 0;
  std::vector<Memory> blocks_;
};

}  // namespace fastcam
