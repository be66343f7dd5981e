// AVX-512 F BW DQ VL, VNNI and VBMI.
//
// vpdpbusd multiplies unsigned by signed bytes, four at a time, without saturation.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>
#include <limits>

#include "core/kernels/attention.h"
#include "core/kernels/expand_avx512.h"
#include "core/kernels/target.h"
#include "core/kernels/unroll.h"

#if defined(__GNUC__) && !defined(__clang__)  // gcc 12's own intrinsics start from undefined registers (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

POLYKV_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")
namespace polykv::core {
namespace {

constexpr std::size_t kTile = 16;

__m512 load_float16(const std::byte* bytes) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
}

// Four bytes in every 32-bit lane.
__m512i broadcast_4(const void* bytes) {
  std::int32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return _mm512_set1_epi32(value);
}

// 16 scales of codes of `bits` bits: bytes of trellis codes, or float16.
constexpr std::size_t scale_row_bytes(unsigned bits) { return bits <= 5 ? kTile : 2 * kTile; }
__m512 load_scale_row(const std::byte* row, unsigned bits, int exponent) {
  if (bits > 5) return load_float16(row);
  const __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)));
  const __m512i scales = _mm512_add_epi32(_mm512_slli_epi32(x, 18), _mm512_set1_epi32((exponent + 127) << 23));
  return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(_mm512_test_epi32_mask(x, x), scales));
}

// Adds lanes 8 apart, then 4, 2 and 1.
float sum_lanes(__m512 x) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

// ---- scores

constexpr std::size_t kVectorsAtOnce = 8;

// kVectors vectors from `first` on against one tile. Keys carry a bias of 128, to be unsigned, which makes the sums
// greater by 128 * the sum of the query codes. Sums of blocks wait in `scores`.
template <std::size_t kVectors, typename Keys>
void score_tile(const Keys& keys, std::size_t tile, const KeyTiles& tiles, const CodeQueries& queries,
                const float* factors, std::size_t first, float* scores) {
  const std::size_t num_groups = tiles.head_dim / 4;
  const std::size_t block_groups = tiles.bits == 8 ? 8 : num_groups;
  const std::size_t num_blocks = tiles.bits == 8 ? (num_groups + 7) / 8 : 1;
  const std::int8_t* planes = queries.planes + first * 8;
  scores += first * kScoreStride + tile * kTile;
  for (std::size_t block = 0, group = 0; block < num_blocks; ++block) {
    __m512i high[kVectors], low[kVectors];
    POLYKV_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) {
      high[v] = _mm512_setzero_si512();
      low[v] = _mm512_set1_epi32(queries.biases[block * queries.stride + first + v]);
    }
    for (const std::size_t end = group + block_groups < num_groups ? group + block_groups : num_groups; group < end;
         ++group, planes += queries.stride * 8) {
      const __m512i key = keys.load(tile, group);
      POLYKV_UNROLL
      for (std::size_t v = 0; v < kVectors; ++v) {
        high[v] = _mm512_dpbusd_epi32(high[v], key, broadcast_4(planes + v * 8));
        low[v] = _mm512_dpbusd_epi32(low[v], key, broadcast_4(planes + v * 8 + 4));
      }
    }
    const std::size_t scale_row = tile * num_blocks + block;
    const std::byte* scales = tiles.scales + scale_row * scale_row_bytes(tiles.bits);
    __builtin_prefetch(scales + tiles.ahead, 0, 3);
    const __m512 key_scale = load_scale_row(scales, tiles.bits, tiles.exponent);
    POLYKV_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) {
      float* to = scores + v * kScoreStride;
      const __m512i total = _mm512_add_epi32(_mm512_slli_epi32(high[v], 7), low[v]);
      __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(total), key_scale);
      if (block > 0) sum = _mm512_add_ps(_mm512_loadu_ps(to), sum);
      if (block + 1 == num_blocks)
        sum = _mm512_add_ps(_mm512_mul_ps(sum, _mm512_set1_ps(factors[first + v])),
                            _mm512_set1_ps(queries.offsets[first + v]));
      _mm512_storeu_ps(to, sum);
    }
  }
}

template <std::size_t kVectors, std::size_t kTiles>
void score_block_float16(const KeyTiles& tiles, std::size_t first_tile, const float* queries, float* scores) {
  const std::size_t head_dim = tiles.head_dim;
  const std::byte* keys = tiles.codes + first_tile * head_dim * kTile * 2;
  __m512 sum[kVectors][kTiles];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t t = 0; t < kTiles; ++t) sum[v][t] = _mm512_setzero_ps();
  for (std::size_t d = 0; d < head_dim; ++d) {
    __m512 key[kTiles];
    for (std::size_t t = 0; t < kTiles; ++t) {
      const std::byte* row = keys + (t * head_dim + d) * kTile * 2;
      __builtin_prefetch(row + tiles.ahead, 0, 3);
      key[t] = load_float16(row);
    }
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512 query = _mm512_set1_ps(queries[v * head_dim + d]);
      for (std::size_t t = 0; t < kTiles; ++t) sum[v][t] = _mm512_fmadd_ps(key[t], query, sum[v][t]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t t = 0; t < kTiles; ++t)
      _mm512_storeu_ps(scores + v * kScoreStride + (first_tile + t) * kTile, sum[v][t]);
}

template <std::size_t kVectors, std::size_t kTiles>
void score_vectors_float16(const KeyTiles& tiles, const float* queries, float* scores) {
  std::size_t tile = 0;
  for (; tile + kTiles <= tiles.num_tiles; tile += kTiles)
    score_block_float16<kVectors, kTiles>(tiles, tile, queries, scores);
  for (; tile < tiles.num_tiles; ++tile) score_block_float16<kVectors, 1>(tiles, tile, queries, scores);
}

void score_float16(const KeyTiles& tiles, const float* queries, std::size_t num_vectors, float* scores) {
  for (; num_vectors >= 6; num_vectors -= 6, queries += 6 * tiles.head_dim, scores += 6 * kScoreStride)
    score_vectors_float16<6, 2>(tiles, queries, scores);
  switch (num_vectors) {
    case 5:
      return score_vectors_float16<5, 2>(tiles, queries, scores);
    case 4:
      return score_vectors_float16<4, 2>(tiles, queries, scores);
    case 3:
      return score_vectors_float16<3, 4>(tiles, queries, scores);
    case 2:
      return score_vectors_float16<2, 4>(tiles, queries, scores);
    case 1:
      return score_vectors_float16<1, 4>(tiles, queries, scores);
    default:
      return;
  }
}

// ---- weights

__m512 exp_nonpositive_16(__m512 x) {
  using namespace exponential;
  const __mmask16 in_range = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kLowest), _CMP_GE_OQ);
  const __m512 rounded = _mm512_fmadd_ps(x, _mm512_set1_ps(kLog2E), _mm512_set1_ps(kRound));
  const __m512 n = _mm512_sub_ps(rounded, _mm512_set1_ps(kRound));
  const __m512 f = _mm512_fmadd_ps(n, _mm512_set1_ps(-kLn2), x);
  __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(kC5), _mm512_set1_ps(kC4));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kC3));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kC2));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(rounded), 23);
  return _mm512_castsi512_ps(_mm512_maskz_add_epi32(in_range, _mm512_castps_si512(p), power));
}

// Lanes of [begin, end) in the 16 slots from `slot`.
__mmask16 visible_lanes(std::size_t slot, std::size_t begin, std::size_t end) {
  const std::uint32_t from = begin > slot ? 0xffffu << (begin - slot) : 0xffffu;
  const std::uint32_t to = end < slot + kTile ? 0xffffu >> (slot + kTile - end) : 0xffffu;
  return static_cast<__mmask16>(from & to);
}

SoftmaxSum softmax(float* scores, std::size_t begin, std::size_t end, std::size_t num_slots) {
  const std::size_t first = begin / kTile * kTile;
  __m512 tops = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (std::size_t t = first; t < end; t += kTile) {
    const __m512 x = _mm512_loadu_ps(scores + t);
    if (t >= begin && end - t >= kTile)
      tops = _mm512_max_ps(x, tops);  // of x not a number: tops
    else
      tops = _mm512_mask_max_ps(tops, visible_lanes(t, begin, end), x, tops);
  }
  const float max = _mm512_reduce_max_ps(tops);
  for (std::size_t t = 0; t < first; t += kTile) _mm512_storeu_ps(scores + t, _mm512_setzero_ps());
  __m512 sums = _mm512_setzero_ps();
  std::size_t t = first;
  for (; t < end; t += kTile) {
    const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(scores + t), _mm512_set1_ps(max));
    __m512 weights = exp_nonpositive_16(x);
    if (t < begin || end - t < kTile) weights = _mm512_maskz_mov_ps(visible_lanes(t, begin, end), weights);
    sums = _mm512_add_ps(sums, weights);
    _mm512_storeu_ps(scores + t, weights);
  }
  for (; t < num_slots; t += kTile) _mm512_storeu_ps(scores + t, _mm512_setzero_ps());
  return {max, sum_lanes(sums)};
}

// ---- values

// One vector's weights of a page as bytes: those of positions 4 q to 4 q + 3 of tile t are four neighbours, where
// packing leaves them.
struct Weights {
  alignas(64) std::uint8_t bytes[64];
  alignas(64) float factors[kMaxTiles][4];  // each four times
  static constexpr std::size_t place(std::size_t tile, std::size_t quad) {
    return tile % 2 * 32 + quad % 2 * 16 + tile / 2 * 8 + quad / 2 * 4;
  }
};

// 16 floats for each of two tiles: lanes 0 to 7 of both, and lanes 8 to 15 of both.
struct TilePair {
  __m512 low, high;
};

TilePair pair_tiles(__m512 first, __m512 second) {
  return {_mm512_shuffle_f32x4(first, second, 0x44), _mm512_shuffle_f32x4(first, second, 0xee)};
}

TilePair load_weights(const float* row, const TilePair& scales) {
  const auto load = [row](std::size_t slot) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(row + slot)), _mm256_loadu_ps(row + kTile + slot),
                              1);
  };
  return {_mm512_mul_ps(load(0), scales.low), _mm512_mul_ps(load(8), scales.high)};
}

// Value scales as floats; negative ones and those that are not finite, and tiles that are not there, as 0.
__m512 load_value_scales(const ValueTiles& tiles, std::size_t tile) {
  if (tile >= tiles.num_tiles) return _mm512_setzero_ps();
  const std::byte* row = tiles.scales + tile * scale_row_bytes(tiles.bits);
  __builtin_prefetch(row + tiles.ahead, 0, 3);
  const __m512 x = load_scale_row(row, tiles.bits, tiles.exponent);
  const __mmask16 used = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ) &
                         _mm512_cmp_ps_mask(x, _mm512_set1_ps(std::numeric_limits<float>::max()), _CMP_LE_OQ);
  return _mm512_maskz_mov_ps(used, x);
}

// 16 packed 16-bit integers a tile.
__m512i to_integers(const TilePair& x, __m512 inverse) {
  return _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x.low, inverse)),
                            _mm512_cvtps_epi32(_mm512_mul_ps(x.high, inverse)));
}

// The weights of four tiles in a row for each vector; zeros in skipped tiles.
void quantize_weights(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, Weights* out) {
  const TilePair scales_01 = pair_tiles(load_value_scales(tiles, 0), load_value_scales(tiles, 1));
  const TilePair scales_23 = pair_tiles(load_value_scales(tiles, 2), load_value_scales(tiles, 3));
  const __m512 step = _mm512_set1_ps(codebook(tiles.bits).step);
  float padded[kMaxTiles * kTile]{};
  for (std::size_t v = 0; v < num_vectors; ++v) {
    const float* row = weights + v * kScoreStride;
    if (tiles.num_tiles < kMaxTiles) {
      std::memcpy(padded, row, tiles.num_tiles * kTile * sizeof *row);
      row = padded;
    }
    const TilePair x_01 = load_weights(row, scales_01), x_23 = load_weights(row + 2 * kTile, scales_23);
    const __m512 max_01 = _mm512_max_ps(x_01.low, x_01.high), max_23 = _mm512_max_ps(x_23.low, x_23.high);
    __m512 top = _mm512_max_ps(_mm512_shuffle_f32x4(max_01, max_23, 0x88), _mm512_shuffle_f32x4(max_01, max_23, 0xdd));
    top = _mm512_max_ps(top, _mm512_permute_ps(top, 0x4e));
    top = _mm512_max_ps(top, _mm512_permute_ps(top, 0xb1));  // that of tile i in lanes 4 i to 4 i + 3
    const __mmask16 used = _mm512_cmp_ps_mask(top, _mm512_set1_ps(kLeastTop), _CMP_GT_OQ);
    const __m512 inverse = _mm512_maskz_div_ps(used, _mm512_set1_ps(255.0f), top);
    const __m512 factor = _mm512_maskz_mul_ps(used, _mm512_mul_ps(top, _mm512_set1_ps(kOver255)), step);
    const __m512i packed_01 = to_integers(x_01, _mm512_shuffle_f32x4(inverse, inverse, 0x50));
    const __m512i packed_23 = to_integers(x_23, _mm512_shuffle_f32x4(inverse, inverse, 0xfa));
    _mm512_store_si512(out[v].bytes, _mm512_packus_epi16(packed_01, packed_23));
    _mm512_store_ps(out[v].factors[0], factor);
  }
}

// kVectors vectors from `first` on, 16 dims, all tiles.
template <std::size_t kVectors, typename Values>
void add_block(const Values& values, std::size_t block, const ValueTiles& tiles, const Weights* weights,
               std::size_t first, float* out) {
  const std::size_t num_blocks = tiles.padded_dim / kTile;
  out += first * tiles.padded_dim + block * kTile;
  __m512 sum[kVectors];
  POLYKV_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) sum[v] = _mm512_loadu_ps(out + v * tiles.padded_dim);
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    __m512i total[kVectors];
    POLYKV_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) total[v] = _mm512_setzero_si512();
    POLYKV_UNROLL
    for (std::size_t quad = 0; quad < 4; ++quad) {
      const std::size_t group = quad * num_blocks + block;
      const __m512i value = values.load(tile, group);
      POLYKV_UNROLL
      for (std::size_t v = 0; v < kVectors; ++v)
        total[v] =
            _mm512_dpbusd_epi32(total[v], broadcast_4(weights[first + v].bytes + Weights::place(tile, quad)), value);
    }
    POLYKV_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v)
      sum[v] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[v]), _mm512_set1_ps(weights[first + v].factors[tile][0]), sum[v]);
  }
  POLYKV_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) _mm512_storeu_ps(out + v * tiles.padded_dim, sum[v]);
}

#include "core/kernels/attention_body.inc"

template <std::size_t kVectors, std::size_t kBlocks>
void add_block_float16(const ValueTiles& tiles, const float* weights, std::size_t first_block, float* out) {
  __m512 sum[kVectors][kBlocks];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t b = 0; b < kBlocks; ++b)
      sum[v][b] = _mm512_loadu_ps(out + v * tiles.padded_dim + (first_block + b) * kTile);
  for (std::size_t t = 0; t < tiles.num_tiles * kTile; ++t) {
    const std::size_t offset = (t * tiles.padded_dim + first_block * kTile) * 2;
    __m512 value[kBlocks];
    for (std::size_t b = 0; b < kBlocks; ++b) {
      __builtin_prefetch(tiles.codes + offset + b * kTile * 2 + tiles.ahead, 0, 3);
      value[b] = load_float16(tiles.codes + offset + b * kTile * 2);
    }
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512 weight = _mm512_set1_ps(weights[v * kScoreStride + t]);
      for (std::size_t b = 0; b < kBlocks; ++b) sum[v][b] = _mm512_fmadd_ps(weight, value[b], sum[v][b]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t b = 0; b < kBlocks; ++b)
      _mm512_storeu_ps(out + v * tiles.padded_dim + (first_block + b) * kTile, sum[v][b]);
}

template <std::size_t kVectors>
void add_vectors_float16(const ValueTiles& tiles, const float* weights, float* out) {
  const std::size_t num_blocks = tiles.padded_dim / kTile;
  std::size_t block = 0;
  for (; block + 4 <= num_blocks; block += 4) add_block_float16<kVectors, 4>(tiles, weights, block, out);
  for (; block < num_blocks; ++block) add_block_float16<kVectors, 1>(tiles, weights, block, out);
}

void add_float16(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out) {
  std::size_t v = 0;
  for (; v + 4 <= num_vectors; v += 4)
    add_vectors_float16<4>(tiles, weights + v * kScoreStride, out + v * tiles.padded_dim);
  for (; v + 3 <= num_vectors; v += 3)
    add_vectors_float16<3>(tiles, weights + v * kScoreStride, out + v * tiles.padded_dim);
  for (; v < num_vectors; ++v) add_vectors_float16<1>(tiles, weights + v * kScoreStride, out + v * tiles.padded_dim);
}

// ---- merging

void merge(float* out, float out_factor, const float* partial, float partial_factor, std::size_t num_values) {
  for (std::size_t i = 0; i < num_values; i += kTile) {
    const __m512 kept = _mm512_mul_ps(_mm512_loadu_ps(out + i), _mm512_set1_ps(out_factor));
    _mm512_storeu_ps(out + i, _mm512_fmadd_ps(_mm512_loadu_ps(partial + i), _mm512_set1_ps(partial_factor), kept));
  }
}

float dot_float16(const float* query, const std::byte* vector, std::size_t head_dim) {
  __m512 sum = _mm512_setzero_ps();
  std::size_t d = 0;
  for (; d + kTile <= head_dim; d += kTile)
    sum = _mm512_fmadd_ps(_mm512_loadu_ps(query + d), load_float16(vector + d * 2), sum);
  if (d < head_dim) {  // eight dims are left
    const __m256 values = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(vector + d * 2)));
    const __m256 low = _mm256_fmadd_ps(_mm256_loadu_ps(query + d), values, _mm512_castps512_ps256(sum));
    sum = _mm512_insertf32x8(sum, low, 0);
  }
  return sum_lanes(sum);
}

}  // namespace

extern const AttentionKernels kAttentionAvx512;
const AttentionKernels kAttentionAvx512{score_codes, score_float16, softmax,    add_codes,
                                        add_float16, merge,         dot_float16};

}  // namespace polykv::core
POLYKV_TARGET_END

#endif
