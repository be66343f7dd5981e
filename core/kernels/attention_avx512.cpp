// AVX-512 F BW DQ VL, VNNI and VBMI.
//
// vpdpbusd multiplies unsigned by signed bytes, four at a time, without saturation.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>
#include <limits>

#include "core/kernels/attention.h"
#include "core/kernels/expand.h"
#include "core/kernels/target.h"

#if defined(__GNUC__) && !defined(__clang__)  // gcc 12's own intrinsics start from undefined registers (its bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

POLYKV_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
namespace polykv::core {
namespace {

constexpr std::size_t kTile = 16;
constexpr std::size_t kMaxTiles = 4;
constexpr std::size_t kGroup = 64;  // codes

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

// The exact sums over groups [group, end) of kTiles tiles, tile_bytes apart. Keys carry a bias of 128, to be unsigned,
// which is left in the sums: 128 * the sum of the query codes.
template <std::size_t kVectors, std::size_t kTiles>
void add_groups(const std::int8_t* keys, std::size_t tile_bytes, std::size_t group, std::size_t end,
                const std::int8_t* high_codes, const std::int8_t* low_codes, std::size_t head_dim,
                __m512i (&total)[kVectors][kTiles]) {
  __m512i high[kVectors][kTiles], low[kVectors][kTiles];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t t = 0; t < kTiles; ++t) high[v][t] = low[v][t] = _mm512_setzero_si512();
  for (; group < end; ++group) {
    __m512i key[kTiles];
    for (std::size_t t = 0; t < kTiles; ++t) key[t] = _mm512_load_si512(keys + t * tile_bytes + group * kGroup);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512i query_high = broadcast_4(high_codes + v * head_dim + group * 4);
      const __m512i query_low = broadcast_4(low_codes + v * head_dim + group * 4);
      for (std::size_t t = 0; t < kTiles; ++t) {
        high[v][t] = _mm512_dpbusd_epi32(high[v][t], key[t], query_high);
        low[v][t] = _mm512_dpbusd_epi32(low[v][t], key[t], query_low);
      }
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t t = 0; t < kTiles; ++t)
      total[v][t] = _mm512_add_epi32(_mm512_slli_epi32(high[v][t], 7), low[v][t]);
}

// kVectors vectors against kTiles tiles. Sums of blocks wait in `scores`: in registers they would crowd out the loop
// above.
template <std::size_t kVectors, std::size_t kTiles>
void score_block(const std::int8_t* keys, const KeyTiles& tiles, std::size_t first_tile, const CodeQueries& queries,
                 std::size_t first, float step, float* scores) {
  const std::size_t num_groups = tiles.head_dim / 4, block_groups = tiles.bits == 8 ? 8 : num_groups;
  const std::size_t num_blocks = (num_groups + block_groups - 1) / block_groups;
  scores += first * kPartialSlots + first_tile * kTile;
  for (std::size_t block = 0; block < num_blocks; ++block) {
    const std::size_t begin = block * block_groups;
    const std::size_t end = begin + block_groups < num_groups ? begin + block_groups : num_groups;
    __m512i total[kVectors][kTiles];
    add_groups<kVectors, kTiles>(keys + first_tile * num_groups * kGroup, num_groups * kGroup, begin, end,
                                 queries.high + first * tiles.head_dim, queries.low + first * tiles.head_dim,
                                 tiles.head_dim, total);
    for (std::size_t t = 0; t < kTiles; ++t) {
      const std::size_t scale_row = (first_tile + t) * num_blocks + block;
      const __m512 key_scale =
          load_scale_row(tiles.scales + scale_row * scale_row_bytes(tiles.bits), tiles.bits, tiles.exponent);
      for (std::size_t v = 0; v < kVectors; ++v) {
        float* to = scores + v * kPartialSlots + t * kTile;
        const __m512i bias = _mm512_set1_epi32(128 * queries.block_sums[(first + v) * num_blocks + block]);
        __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(total[v][t], bias)), key_scale);
        if (block > 0) sum = _mm512_add_ps(_mm512_loadu_ps(to), sum);
        if (block + 1 == num_blocks)
          sum = _mm512_add_ps(_mm512_mul_ps(sum, _mm512_set1_ps(queries.scales[first + v] * step)),
                              _mm512_set1_ps(queries.offsets[first + v]));
        _mm512_storeu_ps(to, sum);
      }
    }
  }
}

template <std::size_t kVectors, std::size_t kTiles>
void score_vectors(const std::int8_t* keys, const KeyTiles& tiles, const CodeQueries& queries, std::size_t first,
                   float step, float* scores) {
  std::size_t tile = 0;
  for (; tile + kTiles <= tiles.num_tiles; tile += kTiles)
    score_block<kVectors, kTiles>(keys, tiles, tile, queries, first, step, scores);
  for (; tile < tiles.num_tiles; ++tile) score_block<kVectors, 1>(keys, tiles, tile, queries, first, step, scores);
}

void score_codes(const KeyTiles& tiles, const CodeQueries& queries, float* scores) {
  alignas(64) std::int8_t keys[kMaxTiles * kTile * 512];
  expand_avx512({tiles.codes, tiles.num_tiles, tiles.head_dim / 4, tiles.bits, true}, 0x80, keys);
  const float step = tiles.bits == 8 ? 1.0f : codebook(tiles.bits).step;
  std::size_t v = 0;
  for (; v + 4 <= queries.num_vectors; v += 4) score_vectors<4, 2>(keys, tiles, queries, v, step, scores);
  switch (queries.num_vectors - v) {
    case 3:
      return score_vectors<3, 2>(keys, tiles, queries, v, step, scores);
    case 2:
      return score_vectors<2, 2>(keys, tiles, queries, v, step, scores);
    case 1:
      return score_vectors<1, 2>(keys, tiles, queries, v, step, scores);
    default:
      return;
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
    for (std::size_t t = 0; t < kTiles; ++t) key[t] = load_float16(keys + (t * head_dim + d) * kTile * 2);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512 query = _mm512_set1_ps(queries[v * head_dim + d]);
      for (std::size_t t = 0; t < kTiles; ++t) sum[v][t] = _mm512_fmadd_ps(key[t], query, sum[v][t]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t t = 0; t < kTiles; ++t)
      _mm512_storeu_ps(scores + v * kPartialSlots + (first_tile + t) * kTile, sum[v][t]);
}

template <std::size_t kVectors, std::size_t kTiles>
void score_vectors_float16(const KeyTiles& tiles, const float* queries, float* scores) {
  std::size_t tile = 0;
  for (; tile + kTiles <= tiles.num_tiles; tile += kTiles)
    score_block_float16<kVectors, kTiles>(tiles, tile, queries, scores);
  for (; tile < tiles.num_tiles; ++tile) score_block_float16<kVectors, 1>(tiles, tile, queries, scores);
}

void score_float16(const KeyTiles& tiles, const float* queries, std::size_t num_vectors, float* scores) {
  for (; num_vectors >= 6; num_vectors -= 6, queries += 6 * tiles.head_dim, scores += 6 * kPartialSlots)
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
  return _mm512_maskz_mov_ps(in_range, _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), power)));
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
    const bool whole = t >= begin && end - t >= kTile;
    tops = _mm512_mask_max_ps(tops, whole ? __mmask16{0xffff} : visible_lanes(t, begin, end), x, tops);  // NaN: tops
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

struct Weights {
  alignas(64) std::uint8_t u8[kMaxVectors][4][kMaxTiles][4];  // [vector][quad of positions][tile][position in the quad]
  alignas(16) float factors[kMaxVectors][kMaxTiles];
};

// Value scales as floats; negative ones and those that are not finite, and tiles that are not there, as 0.
void load_scales(const ValueTiles& tiles, __m512 (&scales)[kMaxTiles]) {
  for (std::size_t t = 0; t < kMaxTiles; ++t) {
    scales[t] = _mm512_setzero_ps();
    if (t >= tiles.num_tiles) continue;
    const __m512 x = load_scale_row(tiles.scales + t * scale_row_bytes(tiles.bits), tiles.bits, tiles.exponent);
    const __mmask16 used = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ) &
                           _mm512_cmp_ps_mask(x, _mm512_set1_ps(std::numeric_limits<float>::max()), _CMP_LE_OQ);
    scales[t] = _mm512_maskz_mov_ps(used, x);
  }
}

// The largest of each vector's 16 lanes: that of x[i] in all of lanes 4i to 4i + 3.
__m512 max_of_each(const __m512 (&x)[4]) {
  const __m512 a = _mm512_max_ps(_mm512_shuffle_f32x4(x[0], x[1], 0x44), _mm512_shuffle_f32x4(x[0], x[1], 0xee));
  const __m512 b = _mm512_max_ps(_mm512_shuffle_f32x4(x[2], x[3], 0x44), _mm512_shuffle_f32x4(x[2], x[3], 0xee));
  const __m512 c = _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  const __m512 d = _mm512_max_ps(c, _mm512_permute_ps(c, 0x4e));
  return _mm512_max_ps(d, _mm512_permute_ps(d, 0xb1));
}

// One vector's weights of a page, four tiles in a row; zeros past num_tiles and in skipped tiles.
void quantize_weights(const float* row, std::size_t num_tiles, const __m512 (&scales)[kMaxTiles], float step,
                      std::size_t v, Weights& out) {
  __m512 x[kMaxTiles];
  for (std::size_t t = 0; t < kMaxTiles; ++t)
    x[t] = t < num_tiles ? _mm512_mul_ps(_mm512_loadu_ps(row + t * kTile), scales[t]) : _mm512_setzero_ps();
  const __m512 top = max_of_each(x);
  const __mmask16 used = _mm512_cmp_ps_mask(top, _mm512_set1_ps(kLeastTop), _CMP_GT_OQ);
  const __m512 inverse = _mm512_maskz_div_ps(used, _mm512_set1_ps(255.0f), top);
  const __m512 factor = _mm512_maskz_mul_ps(used, _mm512_mul_ps(top, _mm512_set1_ps(kOver255)), _mm512_set1_ps(step));
  const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(x[0], _mm512_shuffle_f32x4(inverse, inverse, 0x00)));
  const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(x[1], _mm512_shuffle_f32x4(inverse, inverse, 0x55)));
  const __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(x[2], _mm512_shuffle_f32x4(inverse, inverse, 0xaa)));
  const __m512i d = _mm512_cvtps_epi32(_mm512_mul_ps(x[3], _mm512_shuffle_f32x4(inverse, inverse, 0xff)));
  _mm512_store_si512(out.u8[v], _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)));
  const __m512i first_lanes = _mm512_set_epi32(12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0);
  _mm_store_ps(out.factors[v], _mm512_castps512_ps128(_mm512_permutexvar_ps(first_lanes, factor)));
}

// kVectors vectors, kBlocks blocks of 16 dims, all tiles; the sums stay in registers.
template <std::size_t kVectors, std::size_t kBlocks>
void add_block(const std::int8_t* values, const ValueTiles& tiles, const Weights& weights, std::size_t first,
               std::size_t first_block, float* out) {
  const std::size_t num_blocks = tiles.padded_dim / kTile;
  out += first * tiles.padded_dim + first_block * kTile;
  __m512 sum[kVectors][kBlocks];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t b = 0; b < kBlocks; ++b) sum[v][b] = _mm512_loadu_ps(out + v * tiles.padded_dim + b * kTile);
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    __m512i total[kVectors][kBlocks];
    for (std::size_t v = 0; v < kVectors; ++v)
      for (std::size_t b = 0; b < kBlocks; ++b) total[v][b] = _mm512_setzero_si512();
    for (std::size_t quad = 0; quad < 4; ++quad) {
      __m512i weight[kVectors];
      for (std::size_t v = 0; v < kVectors; ++v) weight[v] = broadcast_4(weights.u8[first + v][quad][tile]);
      for (std::size_t b = 0; b < kBlocks; ++b) {
        const __m512i value = _mm512_load_si512(values + ((tile * 4 + quad) * num_blocks + first_block + b) * kGroup);
        for (std::size_t v = 0; v < kVectors; ++v) total[v][b] = _mm512_dpbusd_epi32(total[v][b], weight[v], value);
      }
    }
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512 factor = _mm512_set1_ps(weights.factors[first + v][tile]);
      for (std::size_t b = 0; b < kBlocks; ++b)
        sum[v][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[v][b]), factor, sum[v][b]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t b = 0; b < kBlocks; ++b) _mm512_storeu_ps(out + v * tiles.padded_dim + b * kTile, sum[v][b]);
}

template <std::size_t kVectors>
void add_vectors(const std::int8_t* values, const ValueTiles& tiles, const Weights& weights, std::size_t first,
                 float* out) {
  const std::size_t num_blocks = tiles.padded_dim / kTile;
  std::size_t block = 0;
  for (; block + 4 <= num_blocks; block += 4) add_block<kVectors, 4>(values, tiles, weights, first, block, out);
  switch (num_blocks - block) {
    case 3:
      return add_block<kVectors, 3>(values, tiles, weights, first, block, out);
    case 2:
      return add_block<kVectors, 2>(values, tiles, weights, first, block, out);
    case 1:
      return add_block<kVectors, 1>(values, tiles, weights, first, block, out);
    default:
      return;
  }
}

void add_codes(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out) {
  alignas(64) std::int8_t values[kMaxTiles * kTile * 512];
  Weights quantized;
  const float step = codebook(tiles.bits).step;
  __m512 scales[kMaxTiles];
  load_scales(tiles, scales);
  for (std::size_t v = 0; v < num_vectors; ++v)
    quantize_weights(weights + v * kPartialSlots, tiles.num_tiles, scales, step, v, quantized);
  expand_avx512({tiles.codes, tiles.num_tiles, tiles.padded_dim / 4, tiles.bits, false}, 0, values);
  std::size_t v = 0;
  for (; v + 3 <= num_vectors; v += 3) add_vectors<3>(values, tiles, quantized, v, out);
  if (num_vectors - v == 2) add_vectors<2>(values, tiles, quantized, v, out);
  if (num_vectors - v == 1) add_vectors<1>(values, tiles, quantized, v, out);
}

template <std::size_t kVectors, std::size_t kBlocks>
void add_block_float16(const ValueTiles& tiles, const float* weights, std::size_t first_block, float* out) {
  __m512 sum[kVectors][kBlocks];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t b = 0; b < kBlocks; ++b)
      sum[v][b] = _mm512_loadu_ps(out + v * tiles.padded_dim + (first_block + b) * kTile);
  for (std::size_t t = 0; t < tiles.num_tiles * kTile; ++t) {
    const std::size_t offset = (t * tiles.padded_dim + first_block * kTile) * 2;
    __m512 value[kBlocks];
    for (std::size_t b = 0; b < kBlocks; ++b) value[b] = load_float16(tiles.codes + offset + b * kTile * 2);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512 weight = _mm512_set1_ps(weights[v * kPartialSlots + t]);
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
    add_vectors_float16<4>(tiles, weights + v * kPartialSlots, out + v * tiles.padded_dim);
  for (; v + 3 <= num_vectors; v += 3)
    add_vectors_float16<3>(tiles, weights + v * kPartialSlots, out + v * tiles.padded_dim);
  for (; v < num_vectors; ++v) add_vectors_float16<1>(tiles, weights + v * kPartialSlots, out + v * tiles.padded_dim);
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
