// The kernels of attention: what the tiles of one page do to the query vectors of one kv_head.
//
// Every table gives the same bits: sums of integers are exact, and floats are multiplied, added and fused (FMA, one
// rounding) in the order written here; core/kernels/attention_scalar.cpp says it in C++. So a vector's result depends
// on nothing but the vector and the tiles. Codes and scales are untrusted: the results may be nonsense, or not a
// number; nothing is read out of bounds and no float that an integer cannot hold is converted to one.
//
// Tiles hold 16 positions, in the byte order of spec/codecs.md. Pointers need no alignment; outputs do not overlap
// inputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codebook.h"

namespace polykv::core {

// Scores and weights of a partial: [num_vectors][kScoreStride], slot 0 being the first of the partial. The stride is an
// odd number of cache lines, so that the same slots of all vectors have different places in a cache.
inline constexpr std::size_t kPartialSlots = 512, kScoreStride = kPartialSlots + 16;

// Vectors that a kernel takes at most: 96 KiB of scores, which stay in the second-level cache.
inline constexpr std::size_t kMaxVectors = 48;

// Query vectors as 15-bit integers: value = scale * code, code = 128 * high + low, |code| <= 16256. Four dims of all
// vectors stand together, which is how they meet the codes of a tile.
struct CodeQueries {
  const std::int16_t* codes;   // [head_dim / 4][stride][dims 0, 2, 1 and 3 of the four]
  const std::int8_t* planes;   // [head_dim / 4][stride][high, -127 to 127; low, 0 to 127][4]
  const std::int32_t* biases;  // [num_blocks][stride]: -128 * the sum of the codes over a scale's dims
  const float* scales;         // [num_vectors]
  const float* offsets;        // [num_vectors]: added to every score (query times the mean of the keys)
  std::size_t num_vectors;     // 1 to kMaxVectors
  std::size_t stride;          // vectors
};

// Consecutive tiles of one page. head_dim is a multiple of 8, at most 512.
struct KeyTiles {
  const std::byte* scales;  // [num_tiles][num_blocks][16]; trellis codes (bits 1 to 5): bytes; others: float16
  const std::byte*
      codes;              // [num_tiles][head_dim * 2 * bits bytes]; float16 [num_tiles][head_dim][16] for score_float16
  std::size_t num_tiles;  // 1 to 4
  std::size_t head_dim;
  unsigned bits;          // 1 to 7, or 8: k8; not used by score_float16
  int exponent = 0;       // of byte scales: -64 to 63
  std::size_t ahead = 0;  // bytes: what lies so far after each scale and code is prefetched
};

struct ValueTiles {
  const std::byte* scales;  // [num_tiles][16], bytes or float16 as in KeyTiles
  const std::byte*
      codes;  // [num_tiles][padded_dim * 2 * bits bytes]; float16 [num_tiles][16][padded_dim] for add_float16
  std::size_t num_tiles;   // 1 to 4
  std::size_t padded_dim;  // a multiple of 16, at most 512
  unsigned bits;           // 1 to 8; not used by add_float16
  int exponent = 0;        // of byte scales: -64 to 63
  std::size_t ahead = 0;   // bytes: what lies so far after each scale and code is prefetched
};

struct SoftmaxSum {
  float max;  // -infinity, if no score is a number
  float sum;  // of exp(score - max)
};

struct AttentionKernels {
  // scores[v][t] = (sum over b of total(v, t, b) * scale[t][b]) * (query scale[v] * step) + offset[v], for every t of
  // the tiles; total(v, t, b) = the exact sum over the dims of block b of query code * key integer. Blocks are added in
  // order.
  //   bits 1 to 7  one block of all dims; key integers and step from codebook(bits), core/trellis.h
  //   bits 8 (k8)  blocks of 32 dims, the last may be shorter; key integers are int8, step is 1
  // A sum that did not fit int32 would need |key integer| > 128: 16256 * 128 * 512 < 2^31.
  void (*score_codes)(const KeyTiles& tiles, const CodeQueries& queries, float* scores);

  // scores[v][t] = sum over d of key[d][t] * queries[v][d], fused, in the order of d.  queries [num_vectors][head_dim]
  void (*score_float16)(const KeyTiles& tiles, const float* queries, std::size_t num_vectors, float* scores);

  // One vector. scores[num_slots], num_slots a multiple of 16; begin < end <= num_slots. Slots in [begin, end) become
  // exp(score - max), all others zero, exactly. exp is exp_nonpositive. A score that is not a number weighs nothing.
  // sum: lane i adds slots i, i + 16, ... in order; then lanes i and i + 8, i and i + 4, i and i + 2, 0 and 1.
  SoftmaxSum (*softmax)(float* scores, std::size_t begin, std::size_t end, std::size_t num_slots);

  // out[v][d] = fused (total(v, d), factor(v, tile), out[v][d]), tile by tile; out [num_vectors][padded_dim].
  // x[t] = weights[v][t] * scale[t], weights 0 to 1, a scale that is negative or not finite counting as 0; top = the
  // largest x of the tile; inverse = 255 / top; u8[t] = x[t] * inverse rounded to nearest even; total = the exact sum
  // over the tile of u8[t] * value integer; factor = (top * kOver255) * step. A tile whose top is not above kLeastTop
  // is skipped.
  void (*add_codes)(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out);

  // out[v][d] = fused sum over t of weights[v][t] * value[t][d], onto out, in the order of t.
  void (*add_float16)(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out);

  // out[i] = fused (partial[i], partial_factor, out[i] * out_factor), i < num_values, a multiple of 16.
  void (*merge)(float* out, float out_factor, const float* partial, float partial_factor, std::size_t num_values);

  // Sum of query[d] * vector[d], vector float16: lane i adds d = i, i + 16, ... fused; lanes as in softmax.
  float (*dot_float16)(const float* query, const std::byte* vector, std::size_t head_dim);
};

// exp(x) for x <= 0, and exactly 1 for 0. Below -80, and for NaN, 0: exp(-80) is 1.8e-35, and a product of a weight and
// a float16 never becomes so small that it rounds to zero. Relative error below 2.2e-7 + 3e-9 |x|.
//   n = x * log2(e) rounded to nearest even; f = x - n * ln 2, fused; 2^n * polynomial(f), in Horner's order, fused
float exp_nonpositive(float x);

namespace exponential {
inline constexpr float kLowest = -80.0f;
inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kRound = 0x1.8p+23f;  // adding it rounds to an integer, which is then in the low bits
inline constexpr float kLn2 = 0x1.62e43p-1f;
// exp(f) = 1 + f + f^2 * (c2 + c3 f + c4 f^2 + c5 f^3), |f| <= ln(2) / 2: minimax, relative error 1.05e-7 before
// rounding.
inline constexpr float kC5 = 0x1.10627ap-7f;
inline constexpr float kC4 = 0x1.572a06p-5f;
inline constexpr float kC3 = 0x1.5557aep-3f;
inline constexpr float kC2 = 0x1.fffdfcp-2f;
}  // namespace exponential

// A tile whose largest weight is not above this adds nothing: 255 / top would not be a float.
inline constexpr float kLeastTop = 1e-30f;
inline constexpr float kOver255 = 0x1.010102p-8f;  // 1 / 255

}  // namespace polykv::core
