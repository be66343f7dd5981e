// One agent's own keys and values after the shared pool, uncompressed (float16).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "format/shape.h"

namespace polykv::core {

// Grows by whole steps: append() for every layer with the same number of positions, then commit().
class Tail {
 public:
  static constexpr std::uint32_t kBlockTokens = 64;

  // Room for `capacity` positions is reserved lazily, 64 positions at a time: an agent pays for what it adds.
  Tail(std::uint32_t num_layers, std::uint32_t num_kv_heads, std::uint32_t head_dim, std::uint32_t capacity);

  // Makes room for so many more positions in every layer. append() does so too, but that may allocate, and throw.
  void reserve(std::uint32_t num_positions);

  // keys, values [num_positions][num_kv_heads][head_dim] float, after RoPE; rounded to float16. num_seen() +
  // num_positions is at most capacity(). Numbers of tokens grow at commit(), yet appended positions of a layer can be
  // read at once. Appending again without a commit() overwrites. Pointers from key_block and value_block stay good
  // until clear() or keep().
  void append(std::uint32_t layer, std::span<const float> keys, std::span<const float> values,
              std::uint32_t num_positions);
  void commit(std::uint32_t num_positions);
  void clear();  // gives the memory back

  // Keeps some of a layer's committed positions and drops the others for good: slots [kv_head][count], those of a head
  // ascending, each below num_tokens(layer). What is kept moves to slots 0 to count - 1.
  void keep(std::uint32_t layer, std::span<const std::uint32_t> slots, std::uint32_t count);

  // Appends a head's keys and values as float16 bits, [num_tokens(layer)][head_dim] each.
  void copy_head(std::uint32_t layer, std::uint32_t kv_head, std::vector<std::uint16_t>& keys,
                 std::vector<std::uint16_t>& values) const;

  // Forgets what was committed after the first `num_positions`; only if nothing was dropped.
  void truncate(std::uint32_t num_positions);

  std::uint32_t num_seen() const { return num_seen_; }
  // What is there of them, in slots 0 to num_tokens(layer) - 1: as much in every head of a layer.
  std::uint32_t num_tokens(std::uint32_t layer) const { return num_tokens_[layer]; }
  double mean_tokens() const;  // over layers
  std::uint32_t capacity() const { return capacity_; }
  std::uint32_t num_blocks() const { return static_cast<std::uint32_t>(blocks_.size()); }  // of 64 positions, reserved

  // float16 bits of 64 positions as four tiles, the bytes of an f16 page; unused positions are zero, or what an
  // overwritten append left. `block` is below num_blocks().
  const std::uint16_t* key_block(std::uint32_t layer, std::uint32_t kv_head,
                                 std::uint32_t block) const;  // [4][head_dim][16]
  const std::uint16_t* value_block(std::uint32_t layer, std::uint32_t kv_head,
                                   std::uint32_t block) const;  // [64][padded_dim]

 private:
  // Aligned to 64 bytes, so that no row of 16 positions crosses a cache line.
  struct Free {
    void operator()(std::uint16_t* values) const { ::operator delete[](values, std::align_val_t{64}); }
  };
  using Block = std::unique_ptr<std::uint16_t[], Free>;  // [layer][kv_head][keys, values]

  std::uint32_t most_tokens() const;
  void move_slot(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t from, std::uint32_t to);
  Block new_block() const;
  std::size_t head_offset(std::uint32_t layer, std::uint32_t kv_head) const;  // in a block

  std::uint32_t num_layers_, num_kv_heads_, head_dim_, capacity_, num_seen_ = 0;
  std::size_t padded_dim_;
  std::vector<std::uint32_t> num_tokens_;  // [layer]
  std::vector<Block> blocks_;
};

}  // namespace polykv::core
