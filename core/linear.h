// Linear layers on weights used in place: out = activations * weights^T, 1 to 64 rows at a time.
//
// A row's result depends on nothing but the row: not on how many rows are beside it, nor on the number of threads. Block
// formats: activations become 15-bit integers per 32 values (two int8 planes: value = scale * (128 * high + low)), summed
// exactly in int32 against the weights' integer codes, then scaled in block order. Float weights: float accumulators in a
// lane and block order that does not depend on the number of rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/weight_matrix.h"
#include "core/workers.h"

namespace polykv::core {

inline constexpr std::size_t kMaxLinearRows = 64;

// Rows of activations, prepared once and used against several matrices (query, key and value share their input).
class Activations {
 public:
  // values [num_rows][num_cols]; num_rows is 1 to kMaxLinearRows, num_cols any. Copies what it needs.
  void assign(std::span<const float> values, std::size_t num_rows, std::size_t num_cols);

  std::size_t num_rows() const { return num_rows_; }
  std::size_t num_cols() const { return num_cols_; }
  const float* values() const { return values_.data(); }         // [num_rows][num_cols]
  const std::int8_t* high() const { return high_.data(); }       // [num_rows][padded_cols]; zero past num_cols
  const std::int8_t* low() const { return low_.data(); }         // [num_rows][padded_cols], 0 to 127
  const float* scales() const { return scales_.data(); }         // [num_rows][num_blocks]
  const float* block_sums() const { return block_sums_.data(); }  // [num_rows][num_blocks]: scale * sum of the integers
  std::size_t num_blocks() const { return (num_cols_ + 31) / 32; }

 private:
  std::size_t num_rows_ = 0, num_cols_ = 0;
  std::vector<float> values_, scales_, block_sums_;
  std::vector<std::int8_t> high_, low_;
};

// out[r][o] = sum_i x[r][i] * weights[o][i] (+ bias[o]), out [num_rows][weights.num_rows] contiguous.
// `bias` may be absent. x.num_cols() == weights.num_cols. Uses the active kernel table (core/kernels/kernels.h).
void linear(const Activations& x, const WeightMatrix& weights, const WeightMatrix& bias, Workers& workers,
            std::span<float> out);

}  // namespace polykv::core
