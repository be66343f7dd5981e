#include "core/tail.h"

#include <algorithm>
#include <numeric>

#include "core/float16.h"
#include "format/page_layout.h"

namespace polykv::core {
namespace {

constexpr std::size_t kTile = format::kTileTokens;

}  // namespace

Tail::Tail(std::uint32_t num_layers, std::uint32_t num_kv_heads, std::uint32_t head_dim, std::uint32_t capacity)
    : num_layers_(num_layers),
      num_kv_heads_(num_kv_heads),
      head_dim_(head_dim),
      capacity_(capacity),
      padded_dim_(format::padded_value_dim(head_dim)),
      num_tokens_(num_layers, 0) {}

Tail::Block Tail::new_block() const {
  const std::size_t num_values = head_offset(num_layers_, 0);
  const std::size_t num_bytes = num_values * sizeof(std::uint16_t);
  Block block(static_cast<std::uint16_t*>(::operator new[](num_bytes, std::align_val_t{64})));
  std::fill_n(block.get(), num_values, std::uint16_t{0});
  return block;
}

std::size_t Tail::head_offset(std::uint32_t layer, std::uint32_t kv_head) const {
  return (std::size_t{layer} * num_kv_heads_ + kv_head) * kBlockTokens * (head_dim_ + padded_dim_);
}

const std::uint16_t* Tail::key_block(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t block) const {
  return blocks_[block].get() + head_offset(layer, kv_head);
}

const std::uint16_t* Tail::value_block(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t block) const {
  return blocks_[block].get() + head_offset(layer, kv_head) + std::size_t{kBlockTokens} * head_dim_;
}

std::uint32_t Tail::most_tokens() const { return *std::max_element(num_tokens_.begin(), num_tokens_.end()); }

void Tail::reserve(std::uint32_t num_positions) {
  const std::size_t end = std::size_t{most_tokens()} + num_positions;
  while (blocks_.size() * kBlockTokens < end) blocks_.push_back(new_block());
}

void Tail::append(std::uint32_t layer, std::span<const float> keys, std::span<const float> values,
                  std::uint32_t num_positions) {
  reserve(num_positions);
  const std::size_t begin = num_tokens_[layer];
  for (std::size_t i = 0; i < num_positions; ++i) {
    const std::size_t position = begin + i, slot = position % kBlockTokens;
    for (std::uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head) {
      std::uint16_t* key_tiles = blocks_[position / kBlockTokens].get() + head_offset(layer, kv_head);
      std::uint16_t* key = key_tiles + slot / kTile * head_dim_ * kTile + slot % kTile;  // a column of its tile
      std::uint16_t* value = key_tiles + std::size_t{kBlockTokens} * head_dim_ + slot * padded_dim_;
      const std::size_t from = (i * num_kv_heads_ + kv_head) * head_dim_;
      for (std::size_t d = 0; d < head_dim_; ++d) {
        key[d * kTile] = float_to_float16(keys[from + d]);
        value[d] = float_to_float16(values[from + d]);
      }
    }
  }
}

void Tail::commit(std::uint32_t num_positions) {
  num_seen_ += num_positions;
  for (std::uint32_t& num_tokens : num_tokens_) num_tokens += num_positions;
}

void Tail::keep(std::uint32_t layer, std::span<const std::uint32_t> slots, std::uint32_t count) {
  for (std::uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head) {
    const auto of_head = slots.subspan(std::size_t{kv_head} * count, count);
    for (std::uint32_t to = 0; to < count; ++to) move_slot(layer, kv_head, of_head[to], to);  // never from below
  }
  num_tokens_[layer] = count;
  blocks_.resize((most_tokens() + kBlockTokens - 1) / kBlockTokens);
}

void Tail::truncate(std::uint32_t num_positions) {
  num_seen_ = num_positions;
  std::fill(num_tokens_.begin(), num_tokens_.end(), num_positions);
}

void Tail::copy_head(std::uint32_t layer, std::uint32_t kv_head, std::vector<std::uint16_t>& keys,
                     std::vector<std::uint16_t>& values) const {
  for (std::uint32_t t = 0; t < num_tokens_[layer]; ++t) {
    const std::size_t slot = t % kBlockTokens;
    const std::uint16_t* key =
        key_block(layer, kv_head, t / kBlockTokens) + slot / kTile * head_dim_ * kTile + slot % kTile;
    for (std::size_t d = 0; d < head_dim_; ++d) keys.push_back(key[d * kTile]);
    const std::uint16_t* value = value_block(layer, kv_head, t / kBlockTokens) + slot * padded_dim_;
    values.insert(values.end(), value, value + head_dim_);
  }
}

double Tail::mean_tokens() const { return std::accumulate(num_tokens_.begin(), num_tokens_.end(), 0.0) / num_layers_; }

void Tail::move_slot(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t from, std::uint32_t to) {
  if (from == to) return;
  const auto key = [&](std::uint32_t position) {
    const std::size_t slot = position % kBlockTokens;
    return blocks_[position / kBlockTokens].get() + head_offset(layer, kv_head) + slot / kTile * head_dim_ * kTile +
           slot % kTile;
  };
  const auto value = [&](std::uint32_t position) {
    return blocks_[position / kBlockTokens].get() + head_offset(layer, kv_head) +
           std::size_t{kBlockTokens} * head_dim_ + position % kBlockTokens * padded_dim_;
  };
  for (std::size_t d = 0; d < head_dim_; ++d) key(to)[d * kTile] = key(from)[d * kTile];
  std::copy_n(value(from), head_dim_, value(to));
}

void Tail::clear() {
  num_seen_ = 0;
  std::fill(num_tokens_.begin(), num_tokens_.end(), 0);
  blocks_.clear();
}

}  // namespace polykv::core
