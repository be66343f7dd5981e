// Linear layers on weights used in place: out = activations * weights^T, 1 to 64 rows at a time.
//
// A row's result depends on nothing but the row: not on how many rows are beside it, nor on the number of threads.
// Block formats: activations become 15-bit integers per 32 values, summed exactly in int32 against the weights' integer
// codes, then scaled in block order; every kernel table gives the same bits. Float weights: float accumulators in a
// lane and block order that does not depend on the number of rows, but on the table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/kernels/linear.h"
#include "core/weight_matrix.h"
#include "core/workers.h"

namespace polykv::core {

inline constexpr std::size_t kMaxLinearRows = 64;

// Rows of activations, prepared once and used against several matrices (query, key and value share their input).
class Activations {
 public:
  // values [num_rows][num_cols]; num_rows is 1 to kMaxLinearRows, num_cols any. Copies what it needs, in the
  // arrangement of the active kernel table (core/kernels/kernels.h), which linear() then uses.
  //
  // A block's scale is its largest magnitude / 16383, so a value is off by at most scale / 2. Blocks whose values are
  // all below 2^-100 become zero; a block with a value that is not finite makes its row's results on block formats NaN.
  void assign(std::span<const float> values, std::size_t num_rows, std::size_t num_cols, Workers& workers);

  std::size_t num_rows() const { return num_rows_; }
  std::size_t num_cols() const { return num_cols_; }
  std::size_t num_blocks() const { return (num_cols_ + 31) / 32; }
  ActivationView view() const;  // while this object is neither assigned to nor destroyed
  const LinearKernels& kernels() const { return *kernels_; }

 private:
  std::size_t num_rows_ = 0, num_cols_ = 0;
  const LinearKernels* kernels_ = nullptr;
  std::vector<float> values_, scales_, block_sums_;
  std::vector<std::int16_t> codes_;
  std::vector<std::int32_t> code_sums_;
  std::vector<std::byte> packed_;
};

// out[r][o] = sum_i x[r][i] * weights[o][i] (+ bias[o]), out [num_rows][weights.num_rows] contiguous.
// `bias` is empty or holds weights.num_rows values. The activations have weights.num_cols columns.
struct LinearLayer {
  const WeightMatrix& weights;
  std::span<const float> bias;
  std::span<float> out;
};

// Layers that share their input go through the workers together: handing work out costs a few microseconds a time, a
// small matrix not much more.
void linear(const Activations& x, std::span<const LinearLayer> layers, Workers& workers);

}  // namespace polykv::core
