// The contract of the prefill's kernels: a document's rows through weight matrices, and the document attending to
// itself, in bfloat16. Products of bfloat16 are summed in float.
//
// Matrices: each result is within (num_cols + 1) * 2^-23 * sum_k |x[k] * w[k]| of the exact one, twice the standard
// bound of a sum.
//
// Attention is fused (FlashAttention, arXiv 2205.14135): the scores of a block of query rows against a block of keys
// live in the first level cache, become softmax weights there and are multiplied with the values at once, by the online
// softmax. Weights are rounded to bfloat16 before they meet the values; the sum that normalizes them is that of the
// rounded ones. With d the relative error of one weight, |out - exact| <= 2 d / (1 - d) * sum_t weight[t] * |value[t]|
// for weights that sum to 1, before the result's own rounding to bfloat16. d is the weight's rounding (2^-9), the
// polynomial of 2^x (2^-13) and its score's error, log(2) * head_dim * 2^-23 * sum_d |query[d] * key[d]|.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polykv::core {

inline constexpr std::size_t kMatrixRows = 12;     // rows taken at a time
inline constexpr std::size_t kMatrixOutputs = 32;  // outputs of a tile

inline constexpr std::size_t kCausalRows = 32;       // query rows of a block, one in each lane
inline constexpr std::size_t kCausalPadTokens = 16;  // keys and values are readable up to a multiple of it

// One q head of a document. bfloat16 bits; head_dim is a multiple of 8; pointers need no alignment. Slots of keys and
// values past num_tokens, up to the next multiple of kCausalPadTokens, are zero.
struct CausalHead {
  std::size_t num_tokens;
  std::size_t head_dim;
  std::size_t first_query;     // the rows before have none: a multiple of kCausalRows
  const std::uint16_t* query;  // [num_tokens - first_query][head_dim], after RoPE, times log2(e) / sqrt(head_dim)
  const std::uint16_t* keys;   // [padded tokens][head_dim], after RoPE
  // [padded tokens / 2][head_dim][2]: two positions side by side, as a dot product of pairs wants them.
  const std::uint16_t* values;
};

struct PrefillKernels {
  const char* name;

  // out[r * out_stride + o] = x row r times weight row o, for r < num_rows, a multiple of kMatrixRows, and
  // o < num_tiles * kMatrixOutputs. num_cols is even.
  //   x        bfloat16, rows x_stride values apart
  //   weights  bfloat16 [num_tiles][num_cols / 2][kMatrixOutputs][2]: pairs of columns side by side
  void (*multiply)(const std::uint16_t* x, std::size_t x_stride, std::size_t num_rows, const std::uint16_t* weights,
                   std::size_t num_cols, std::size_t num_tiles, float* out, std::size_t out_stride);

  // Rows first_row .. min(first_row + kCausalRows, num_tokens) - 1, each seeing the positions up to its own:
  // out[r * out_stride + d], bfloat16, r from 0. first_row is a multiple of kCausalRows, at least first_query; scratch
  // is 64-byte aligned, causal_scratch_bytes(head_dim) of it. A row depends on nothing but the positions that it sees.
  void (*attend)(const CausalHead& head, std::size_t first_row, std::uint16_t* out, std::size_t out_stride,
                 std::byte* scratch);
  std::size_t (*causal_scratch_bytes)(std::size_t head_dim);
};

// C++ only, slow: it defines the right answer. Exact weights, sums in double, one rounding at the end.
extern const PrefillKernels kPrefillScalar;

#if defined(__x86_64__)
extern const PrefillKernels kPrefillAvx512Bf16;  // AVX-512 F BW DQ VL and AVX512_BF16
#endif

}  // namespace polykv::core
