// One agent's own keys and values after the shared pool, uncompressed (float16).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "format/shape.h"

namespace polykv::core {

// Grows by whole steps: append() for every layer with the same number of positions, then commit().
class Tail {
 public:
  // Room for `capacity` positions is reserved lazily, 64 positions at a time: an agent pays for what it adds.
  Tail(std::uint32_t num_layers, std::uint32_t num_kv_heads, std::uint32_t head_dim, std::uint32_t capacity);

  // keys, values [num_positions][num_kv_heads][head_dim] float, after RoPE; rounded to float16.
  // num_tokens() grows at commit(), yet appended positions of a layer can be read at once.
  void append(std::uint32_t layer, std::span<const float> keys, std::span<const float> values, std::uint32_t num_positions);
  void commit(std::uint32_t num_positions);
  void clear();

  std::uint32_t num_tokens() const { return num_tokens_; }
  std::uint32_t capacity() const { return capacity_; }

  // Blocks of 64 positions: keys [head_dim / 1][...] in the layout the tail kernels use; see tail.cpp.
  const std::uint16_t* key_block(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t block) const;
  const std::uint16_t* value_block(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t block) const;

 private:
  std::uint32_t num_layers_, num_kv_heads_, head_dim_, capacity_, num_tokens_ = 0;
  std::vector<std::vector<std::uint16_t>> blocks_;  // [block] -> [layer][kv_head][keys, values][64 positions]
};

}  // namespace polykv::core
