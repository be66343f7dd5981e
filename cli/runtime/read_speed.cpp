#include "cli/runtime/read_speed.h"

namespace polykv::runtime {
namespace {

// Eight sums that do not wait for each other: with one, a fast memory would wait for the additions.
std::uint64_t sum_part(std::span<const std::uint64_t> words) {
  constexpr std::size_t kLanes = 8;
  std::uint64_t lanes[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= words.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += words[i + lane];
  }
  std::uint64_t sum = 0;
  for (; i < words.size(); ++i) sum += words[i];
  for (const std::uint64_t lane : lanes) sum += lane;
  return sum;
}

}  // namespace

std::uint64_t MemoryReader::sum(std::span<const std::uint64_t> words) {
  workers_.run(kNumParts, [&](std::size_t part, std::size_t) {
    const std::size_t begin = words.size() * part / kNumParts, end = words.size() * (part + 1) / kNumParts;
    sums_[part] = sum_part(words.subspan(begin, end - begin));
  });
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums_) sum += part;
  return sum;
}

}  // namespace polykv::runtime
