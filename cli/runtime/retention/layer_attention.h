// Softmax attention of a layer's rows over the positions up to each, for the policies that go by it. Made again from
// the prefill's queries and keys, a block of rows at a time: there is never a matrix of all rows by all positions.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cli/runtime/retention/packed_keys.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

class LayerAttention {
 public:
  // The layer must have queries and outlive this.
  explicit LayerAttention(const RetentionLayer& layer);

  // Adds a row's weights, [row + 1] that sum to 1, to sums [num_tokens], all zero in the beginning.
  using AddRow = std::function<void(std::size_t row, std::span<const float> weights, std::span<float> sums)>;

  // Over every `stride`-th row of [first, end), the last row among them, of all q heads that share a kv_head:
  // [kv_head][num_tokens]. The same bits on every number of threads.
  std::vector<float> sum_rows(std::size_t first, std::size_t end, const AddRow& add, std::size_t stride = 1) const;

  // The weights of rows [first, end) themselves: [q_head][row][num_tokens], zero where a row does not see.
  std::vector<float> rows(std::size_t first, std::size_t end) const;

 private:
  struct Scratch;
  // Of ascending rows.
  void weigh(std::size_t kv_head, std::span<const std::size_t> rows, Scratch& scratch) const;

  const RetentionLayer& layer_;
  std::size_t num_tokens_, padded_tokens_, head_dim_, group_;
  std::vector<PackedKeys> keys_;  // [kv_head]
};

}  // namespace polykv::runtime
