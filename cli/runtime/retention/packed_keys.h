// A head's keys as the attention kernels take them, to be scored against float queries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace polykv::runtime {

class PackedKeys {
 public:
  // keys [num_positions][head_dim], float16 bits.
  PackedKeys(std::span<const std::uint16_t> keys, std::size_t head_dim);

  // Positions, and zeros up to a whole tile of 16.
  std::size_t num_slots() const { return num_slots_; }

  struct Slots {
    std::size_t begin, end;  // multiples of 16
  };
  // out[v * stride + t - begin] = queries[v] times key t, for each of the slots.
  // queries [num_vectors][head_dim], at most core::kMaxVectors of them.
  void score(const float* queries, std::size_t num_vectors, Slots slots, float* out, std::size_t stride) const;

 private:
  std::size_t head_dim_, num_slots_;
  std::vector<std::uint16_t> tiles_;  // [tile][head_dim][16], core::KeyTiles
};

}  // namespace polykv::runtime
