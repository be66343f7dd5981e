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

// All results are the same bits on every number of threads and from every kernel table.
class LayerAttention {
 public:
  // The layer must have queries and outlive this.
  explicit LayerAttention(const RetentionLayer& layer);

  // Rows [first, end), or every `stride`-th of them.
  struct Rows {
    std::size_t first, end, stride = 1;
    std::size_t count() const { return (end - first + stride - 1) / stride; }
  };

  // Adds a row's weights, [row + 1] that sum to 1, to sums [num_tokens], all zero in the beginning. Called on some
  // worker's thread.
  using AddRow = std::function<void(std::span<const float> weights, std::span<float> sums)>;

  // Over rows of each q_head: [q_head][num_tokens].
  std::vector<float> sum_rows(const Rows& rows, const AddRow& add) const;
  // The weights themselves are added.
  std::vector<float> sum_rows(const Rows& rows) const;

  // The weights of rows [first, end): [q_head][row][num_tokens], zero where a row does not see.
  std::vector<float> rows(std::size_t first, std::size_t end) const;

  // What positions [first, end) get from one another, not causally, in chunks of so many that see nothing else; scores
  // are products times `scale`. [q_head][num_tokens], zero outside.
  std::vector<float> sum_chunks(std::size_t first, std::size_t end, std::size_t chunk, float scale) const;

 private:
  struct Scratch;
  // Positions that rows see; causal: each up to its own only.
  struct Sight {
    std::size_t begin, end;
    bool causal;
    float scale;
  };
  // Calls use(q_head, row, weights of the positions seen) for each of the rows and each q_head of the kv_head's.
  template <typename Use>
  void each_row(std::size_t kv_head, const Rows& rows, const Sight& sight, Scratch& scratch, const Use& use) const;
  // Of vectors [first, end), at most core::kMaxVectors; vector n is row n / group of `rows`, q_head n % group.
  void weigh(std::size_t kv_head, const Rows& rows, std::size_t first, std::size_t end, const Sight& sight,
             Scratch& scratch) const;
  Sight causal(std::size_t end_row) const;

  const RetentionLayer& layer_;
  std::size_t num_tokens_, padded_tokens_, head_dim_, group_;
  std::vector<PackedKeys> keys_;  // [kv_head]
};

// Sums over the q_heads that share a kv_head: [kv_head][num_tokens].
std::vector<float> sum_groups(const RetentionLayer& layer, std::span<const float> q_heads);

}  // namespace polykv::runtime
