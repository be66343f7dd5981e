// What memory delivers: the measure beside which kernels that read everything once are judged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/workers.h"

namespace polykv::runtime {

// Sums words with all threads of a team, which reads each of them once.
class MemoryReader {
 public:
  explicit MemoryReader(core::Workers& workers) : workers_(workers), sums_(kNumParts) {}

  std::uint64_t sum(std::span<const std::uint64_t> words);

 private:
  static constexpr std::size_t kNumParts = 64;

  core::Workers& workers_;
  std::vector<std::uint64_t> sums_;
};

}  // namespace polykv::runtime
