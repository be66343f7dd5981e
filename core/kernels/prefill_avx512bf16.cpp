// AVX-512 with BF16: vdpbf16ps adds two products to each of sixteen floats.
//
// Query rows are the lanes, two registers of them. A key or a value is then a broadcast operand, the maximum and the
// sum of a row stay in its lane, and both products run through the same inner loop: eight keys (or eight dimensions of
// the values) times 32 rows, sixteen accumulators and two loads per pair of terms. Zen 4 starts one such product a
// cycle; the loop reaches 82 % of that with the softmax included (head_dim 64, 4,000 tokens).
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/kernels/prefill.h"
#include "core/kernels/target.h"

#if defined(__GNUC__) && !defined(__clang__)  // gcc 12's own intrinsics start from undefined registers (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

POLYKV_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace polykv::core {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kVectors = kCausalRows / kLanes;
constexpr std::size_t kTile = 8;         // keys, or dimensions of the values, in registers at a time
constexpr std::size_t kBlockKeys = 128;  // their scores, 16 KB, and one block's results fit the first level cache
constexpr float kMasked = -1e30f;        // finite: subtracting it from itself gives 0, not NaN

// The block's results may be this much (a factor of 2^8) above those of the maximum they are relative to before they
// are rescaled: float has room, and most blocks need no rescaling.
constexpr float kRescaleAbove = 8.0f;

struct Scratch {
  __m512* query;   // [head_dim / 2][kVectors]: pairs of bfloat16
  __m512* scores;  // [kBlockKeys][kVectors], then weights as pairs of bfloat16 [kBlockKeys / 2][kVectors]
  __m512* mixed;   // [head_dim][kVectors]: not yet normalized
};

constexpr std::size_t kScoreVectors = kBlockKeys * kVectors;

std::size_t causal_scratch_bytes(std::size_t head_dim) {
  return (head_dim / 2 * kVectors + kScoreVectors + head_dim * kVectors) * sizeof(__m512);
}

using Rows = __m512[kVectors];  // one value of each query row
template <std::size_t kOperands>
using Sums = __m512[kOperands][kVectors];
using Tile = Sums<kTile>;

// 2^x. The polynomial is 2^f on [-1/2, 1/2] (minimax, relative error below 2^-13, where a bfloat16 weight keeps 2^-9);
// far below zero the result is 0.
inline __attribute__((always_inline)) __m512 exp2_of(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(5.5504109e-2f), _mm512_set1_ps(2.4022651e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

// sums[j] += the dot products of operand j's pairs with every lane's: pair k of operand j is at
// pairs + j * operand_stride + k * pair_stride, the lanes' at lanes + k * 128.
template <std::size_t kOperands>
inline __attribute__((always_inline)) void multiply_pairs(const std::byte* pairs, std::size_t operand_stride,
                                                          std::size_t pair_stride, const std::byte* lanes,
                                                          std::size_t num_pairs, Sums<kOperands>& sums) {
  for (std::size_t k = 0; k < num_pairs; ++k) {
    const __m512bh lanes0 = (__m512bh)_mm512_loadu_si512(lanes + k * 128);
    const __m512bh lanes1 = (__m512bh)_mm512_loadu_si512(lanes + k * 128 + 64);
#pragma GCC unroll 12
    for (std::size_t j = 0; j < kOperands; ++j) {
      std::int32_t bits;
      std::memcpy(&bits, pairs + j * operand_stride + k * pair_stride, sizeof bits);
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(bits);
      sums[j][0] = _mm512_dpbf16_ps(sums[j][0], lanes0, pair);
      sums[j][1] = _mm512_dpbf16_ps(sums[j][1], lanes1, pair);
    }
  }
}

const std::byte* bytes_of(const void* values) { return static_cast<const std::byte*>(values); }

// Columns are taken in even parts of at most kMaxBlockCols, so that a tile's part, 40 KB, stays near while all rows go
// by it. Fewer and larger parts are better than small ones: 576 columns at once take 9 % less time than 512 and 64.
constexpr std::size_t kMaxBlockCols = 640;

void multiply(const std::uint16_t* x, std::size_t x_stride, std::size_t num_rows, const std::uint16_t* weights,
              std::size_t num_cols, std::size_t num_tiles, float* out, std::size_t out_stride) {
  const std::size_t num_parts = (num_cols + kMaxBlockCols - 1) / kMaxBlockCols;
  const std::size_t part_cols = (num_cols / 2 + num_parts - 1) / num_parts * 2;
  for (std::size_t col = 0; col < num_cols; col += part_cols) {
    const std::size_t num_pairs = std::min(part_cols, num_cols - col) / 2;
    for (std::size_t tile = 0; tile < num_tiles; ++tile) {
      const std::uint16_t* lanes = weights + (tile * num_cols + col) * kMatrixOutputs;
      for (std::size_t row = 0; row < num_rows; row += kMatrixRows) {
        float* results = out + row * out_stride + tile * kMatrixOutputs;
        Sums<kMatrixRows> sums;
#pragma GCC unroll 12
        for (std::size_t j = 0; j < kMatrixRows; ++j) {
          const float* before = results + j * out_stride;
          sums[j][0] = col == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(before);
          sums[j][1] = col == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(before + kLanes);
        }
        multiply_pairs<kMatrixRows>(bytes_of(x + row * x_stride + col), x_stride * 2, 4, bytes_of(lanes), num_pairs,
                                    sums);
#pragma GCC unroll 12
        for (std::size_t j = 0; j < kMatrixRows; ++j) {
          _mm512_storeu_ps(results + j * out_stride, sums[j][0]);
          _mm512_storeu_ps(results + j * out_stride + kLanes, sums[j][1]);
        }
      }
    }
  }
}

// Query rows to lanes; rows after the last one are zero.
void load_query(const CausalHead& head, std::size_t first_row, __m512* query) {
  const std::size_t num_rows = std::min(kCausalRows, head.num_tokens - first_row);
  auto* pairs = reinterpret_cast<std::byte*>(query);
  std::memset(pairs, 0, head.head_dim / 2 * kCausalRows * 4);
  for (std::size_t r = 0; r < num_rows; ++r) {
    const std::uint16_t* row = head.query + (first_row - head.first_query + r) * head.head_dim;
    for (std::size_t k = 0; k < head.head_dim / 2; ++k) std::memcpy(pairs + (k * kCausalRows + r) * 4, row + 2 * k, 4);
  }
}

// Hides what lies after each row's own position: rows are positions first_row + lane, keys are first_key + j.
void mask(Tile& scores, std::size_t first_row, std::size_t first_key) {
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (std::size_t v = 0; v < kVectors; ++v) {
    const __m512i row = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first_row + v * kLanes)));
    for (std::size_t j = 0; j < kTile; ++j) {
      const __mmask16 seen = _mm512_cmpge_epi32_mask(row, _mm512_set1_epi32(static_cast<int>(first_key + j)));
      scores[j][v] = _mm512_mask_mov_ps(_mm512_set1_ps(kMasked), seen, scores[j][v]);
    }
  }
}

// Scores of keys first_key .. first_key + num_keys - 1 (a multiple of kTile); `largest` becomes the rows' largest.
void score_block(const CausalHead& head, std::size_t first_row, std::size_t first_key, std::size_t num_keys,
                 const Scratch& scratch, Rows& largest) {
  for (std::size_t v = 0; v < kVectors; ++v) largest[v] = _mm512_set1_ps(kMasked);
  for (std::size_t key = 0; key < num_keys; key += kTile) {
    Tile scores;
#pragma GCC unroll 8
    for (std::size_t j = 0; j < kTile; ++j) scores[j][0] = scores[j][1] = _mm512_setzero_ps();
    multiply_pairs<kTile>(bytes_of(head.keys + (first_key + key) * head.head_dim), head.head_dim * 2, 4,
                          bytes_of(scratch.query), head.head_dim / 2, scores);
    if (first_key + key + kTile > first_row + 1) mask(scores, first_row, first_key + key);
#pragma GCC unroll 8
    for (std::size_t j = 0; j < kTile; ++j) {
#pragma GCC unroll 2
      for (std::size_t v = 0; v < kVectors; ++v) {
        largest[v] = _mm512_max_ps(largest[v], scores[j][v]);
        scratch.scores[(key + j) * kVectors + v] = scores[j][v];
      }
    }
  }
}

// Moves a row's results to the new maximum where that is far above the one that they are relative to.
void rescale(const Rows& largest, std::size_t head_dim, __m512* mixed, Rows& reference, Rows& sums) {
  Rows factor;
  bool any = false;
  for (std::size_t v = 0; v < kVectors; ++v) {
    const __mmask16 above =
        _mm512_cmp_ps_mask(largest[v], _mm512_add_ps(reference[v], _mm512_set1_ps(kRescaleAbove)), _CMP_GT_OQ);
    const __m512 next = _mm512_mask_mov_ps(reference[v], above, largest[v]);
    factor[v] = exp2_of(_mm512_sub_ps(reference[v], next));
    reference[v] = next;
    any = any || above != 0;
  }
  if (!any) return;
  for (std::size_t v = 0; v < kVectors; ++v) sums[v] = _mm512_mul_ps(sums[v], factor[v]);
  for (std::size_t d = 0; d < head_dim; ++d) {
    for (std::size_t v = 0; v < kVectors; ++v)
      mixed[d * kVectors + v] = _mm512_mul_ps(mixed[d * kVectors + v], factor[v]);
  }
}

// Scores to weights, in place as pairs of bfloat16; adds the rounded weights to the sums.
void weigh_block(std::size_t num_keys, const Rows& reference, __m512* scores, Rows& sums) {
  // vcvtne2ps2bf16 puts the first operand's sixteen values above the second's; a pair wants them side by side.
  const __m512i first = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i side_by_side =
      _mm512_or_si512(first, _mm512_slli_epi32(_mm512_add_epi32(first, _mm512_set1_epi32(16)), 16));
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (std::size_t key = 0; key < num_keys; key += 2) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512 even = exp2_of(_mm512_sub_ps(scores[key * kVectors + v], reference[v]));
      const __m512 odd = exp2_of(_mm512_sub_ps(scores[(key + 1) * kVectors + v], reference[v]));
      const __m512i pair = _mm512_permutexvar_epi16(side_by_side, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
      sums[v] = _mm512_dpbf16_ps(sums[v], (__m512bh)pair, ones);
      scores[key / 2 * kVectors + v] = _mm512_castsi512_ps(pair);
    }
  }
}

void mix_block(const CausalHead& head, std::size_t first_key, std::size_t num_keys, const Scratch& scratch) {
  for (std::size_t d = 0; d < head.head_dim; d += kTile) {
    __m512* mixed = scratch.mixed + d * kVectors;
    Tile sums;
#pragma GCC unroll 8
    for (std::size_t j = 0; j < kTile; ++j) {
      sums[j][0] = mixed[j * kVectors];
      sums[j][1] = mixed[j * kVectors + 1];
    }
    multiply_pairs<kTile>(bytes_of(head.values + first_key * head.head_dim + d * 2), 4, head.head_dim * 4,
                          bytes_of(scratch.scores), num_keys / 2, sums);
#pragma GCC unroll 8
    for (std::size_t j = 0; j < kTile; ++j) {
      mixed[j * kVectors] = sums[j][0];
      mixed[j * kVectors + 1] = sums[j][1];
    }
  }
}

void store(const CausalHead& head, std::size_t first_row, const __m512* mixed, const Rows& sums, std::uint16_t* out,
           std::size_t out_stride) {
  const std::size_t num_rows = std::min(kCausalRows, head.num_tokens - first_row);
  for (std::size_t v = 0; v < kVectors; ++v) {
    const __m512 factor = _mm512_div_ps(_mm512_set1_ps(1.0f), sums[v]);
    for (std::size_t d = 0; d < head.head_dim; ++d) {
      alignas(32) std::uint16_t lanes[kLanes];
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_mul_ps(mixed[d * kVectors + v], factor));
      std::memcpy(lanes, &rounded, sizeof lanes);
      for (std::size_t r = v * kLanes; r < std::min(num_rows, (v + 1) * kLanes); ++r)
        out[r * out_stride + d] = lanes[r % kLanes];
    }
  }
}

void attend(const CausalHead& head, std::size_t first_row, std::uint16_t* out, std::size_t out_stride,
            std::byte* memory) {
  Scratch scratch;
  scratch.query = reinterpret_cast<__m512*>(memory);
  scratch.scores = scratch.query + head.head_dim / 2 * kVectors;
  scratch.mixed = scratch.scores + kScoreVectors;
  load_query(head, first_row, scratch.query);
  std::fill_n(scratch.mixed, head.head_dim * kVectors, _mm512_setzero_ps());
  Rows reference, sums;
  for (std::size_t v = 0; v < kVectors; ++v) {
    reference[v] = _mm512_set1_ps(kMasked);
    sums[v] = _mm512_setzero_ps();
  }
  const std::size_t end = std::min(first_row + kCausalRows, head.num_tokens);
  const std::size_t padded_end = (end + kTile - 1) / kTile * kTile;
  for (std::size_t key = 0; key < padded_end; key += kBlockKeys) {
    const std::size_t num_keys = std::min(kBlockKeys, padded_end - key);
    Rows largest;
    score_block(head, first_row, key, num_keys, scratch, largest);
    rescale(largest, head.head_dim, scratch.mixed, reference, sums);
    weigh_block(num_keys, reference, scratch.scores, sums);
    mix_block(head, key, num_keys, scratch);
  }
  store(head, first_row, scratch.mixed, sums, out, out_stride);
}

}  // namespace

const PrefillKernels kPrefillAvx512Bf16{"avx512_bf16", multiply, attend, causal_scratch_bytes};

}  // namespace polykv::core
POLYKV_TARGET_END

#endif
