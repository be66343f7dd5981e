// The contract of the row kernels: what a transformer does to one row of numbers between its matrices.
//
// Every table gives the same bits: sixteen lanes and a fixed tree for sums, no fused multiply-add, a polynomial of ours
// for the exponential. Pointers need no alignment; sizes are any; out may be the input itself, but not overlap it in
// part.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polykv::core {

struct RowKernels {
  // out[i] = x[i] * weight[i] / sqrt(mean(x^2) + eps)
  void (*rms_norm)(const float* x, const float* weight, std::size_t size, float eps, float* out);

  // A head in half-split order, turned pair (i, half + i) by angle i: cos, sin [half]; x, out [2 * half].
  void (*rotate)(const float* x, const float* cos, const float* sin, std::size_t half, float* out);

  // out[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x)), with a relative error below (4 + |x|) * 2^-23.
  void (*swiglu)(const float* gate, const float* up, std::size_t size, float* out);

  // Activations of the linear layers, see core/linear.h: x [num_blocks * 32] to codes of the same shape and, per block,
  // its scale, the sum of its codes, and scale * sum.
  void (*quantize)(const float* x, std::size_t num_blocks, std::int16_t* codes, float* scales, std::int32_t* code_sums,
                   float* block_sums);

  // sum[i] += x[i]
  void (*add)(const float* x, std::size_t size, float* sum);

  // out[k] = sum over i of x[i]^2 * weights[k][i], k < 3, sixteen lanes as in rms_norm; x[i] becomes
  // x[i]^2 * weights[0][i].
  void (*weighted_squares)(float* x, const float* const weights[3], std::size_t size, float out[3]);

  // To bfloat16 and to float16, rounded to nearest even; NaN stays NaN, what float16 cannot hold becomes infinite.
  void (*to_bfloat16)(const float* x, std::size_t size, std::uint16_t* out);
  void (*to_float16)(const float* x, std::size_t size, std::uint16_t* out);
};

extern const RowKernels kRowsScalar;
#if defined(__x86_64__)
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;
#endif

}  // namespace polykv::core
