// The contract of the linear kernels: rows of prepared activations times rows of a weight matrix.
//
// Block formats, exactly, in every table:
//
//   dot = sum over a block's 32 values of codes[r][i] * weight code (q4_0: nibble - 8, q4_1: nibble, q8_0: int8)
//   sum = fma(float(dot), weight scale * scales[r][block], sum), block after block, from 0
//   sum = fma(minimum, block_sums[r][block], sum) after that, for q4_1
//
// dot is an integer, |dot| <= 32 * 16383 * 128 < 2^27: int32 holds it. The order of the integer sum is free, so a
// kernel may put output rows, activation rows or values in its lanes, and all tables agree to the last bit.
//
// Float formats: sum over lanes of floats in an order that is the table's own but does not depend on the number of rows
// or outputs. Each result is within (num_cols + 8) * 2^-24 * sum_i |x_i * w_i| of the exact one: at most num_cols
// roundings of partial sums and products on the way of each term.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight_matrix.h"

namespace polykv::core {

inline constexpr std::int32_t kMaxActivationCode = 16383;  // 15 bits with the sign

struct ActivationView {
  std::size_t num_rows;  // 1 to kMaxLinearRows
  std::size_t num_cols;
  std::size_t num_blocks;         // of 32 values, the last may be padded with zeros
  const float* values;            // [num_rows][num_blocks * 32]
  const std::int16_t* codes;      // [num_rows][num_blocks * 32], -kMaxActivationCode to kMaxActivationCode
  const float* scales;            // [num_rows][num_blocks]: value ~ scale * code
  const std::int32_t* code_sums;  // [num_rows][num_blocks]: sum of the block's codes
  const float* block_sums;        // [num_rows][num_blocks]: scale * code_sum
  const std::byte* packed;        // what `pack` of the same table made, 64-byte aligned; null if it makes nothing
};

struct LinearKernels {
  // The table's own arrangement of the codes, made once for several matrices.
  std::size_t (*packed_bytes)(std::size_t num_rows, std::size_t num_blocks);
  void (*pack)(const ActivationView& x, std::byte* packed);

  // out[r * out_stride + o] = row r of x times weight row first_output + o, for r < x.num_rows and o < num_outputs.
  // weights.num_cols == x.num_cols, a multiple of 32 for block formats; weight data needs no alignment. Reads nothing
  // outside the weight rows asked for (it may prefetch after them).
  void (*multiply)(const ActivationView& x, const WeightMatrix& weights, std::size_t first_output,
                   std::size_t num_outputs, float* out, std::size_t out_stride);
};

extern const LinearKernels kLinearScalar;
#if defined(__x86_64__)
extern const LinearKernels kLinearAvx2;
extern const LinearKernels kLinearAvx512;
#endif

}  // namespace polykv::core
