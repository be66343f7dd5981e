// AVX2, FMA and F16C.
//
// vpmaddubsw saturates at 32767, and 255 * 127 * 2 is more: so codes and weights are multiplied as 16-bit integers
// (vpmaddwd), which takes the 15-bit query in one piece where bytes need two.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>
#include <limits>

#include "core/kernels/attention.h"
#include "core/kernels/expand.h"
#include "core/kernels/target.h"

POLYKV_TARGET_BEGIN("avx2,fma,f16c")
namespace polykv::core {
namespace {

constexpr std::size_t kTile = 16;
constexpr std::size_t kMaxTiles = 4;
constexpr std::size_t kGroup = 64;  // codes

__m256 load_float16(const std::byte* bytes) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

__m128i load_16(const void* bytes) { return _mm_loadu_si128(static_cast<const __m128i*>(bytes)); }

// Eight scales of codes of `bits` bits, from the one numbered `first` of a row: bytes of trellis codes, or float16.
constexpr std::size_t scale_row_bytes(unsigned bits) { return bits <= 5 ? kTile : 2 * kTile; }
__m256 load_scales(const std::byte* row, std::size_t first, unsigned bits, int exponent) {
  if (bits > 5) return load_float16(row + 2 * first);
  const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + first)));
  const __m256i scales = _mm256_add_epi32(_mm256_slli_epi32(x, 18), _mm256_set1_epi32((exponent + 127) << 23));
  return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpeq_epi32(x, _mm256_setzero_si256()), scales));
}

// Four 16-bit integers in every 64-bit lane.
__m256i broadcast_8(const void* bytes) {
  long long value;
  std::memcpy(&value, bytes, sizeof value);
  return _mm256_set1_epi64x(value);
}

// 16 floats as two registers: lanes 0 to 7 and 8 to 15. Adds lanes 8 apart, then 4, 2 and 1.
float sum_lanes(__m256 low, __m256 high) {
  const __m256 a = _mm256_add_ps(low, high);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

// Eight sums of four from two registers that hold each of them in two neighbouring lanes.
__m256i add_pairs(__m256i first, __m256i second) {
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xd8);
}

// ---- scores

// The exact sums over groups [group, end) for 16 positions.
template <std::size_t kVectors>
void add_groups(const std::int8_t* keys, std::size_t group, std::size_t end, const std::int16_t* codes,
                std::size_t head_dim, __m256i (&total)[kVectors][2]) {
  __m256i sum[kVectors][4];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < 4; ++i) sum[v][i] = _mm256_setzero_si256();
  for (; group < end; ++group) {
    __m256i query[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) query[v] = broadcast_8(codes + v * head_dim + group * 4);
    for (std::size_t i = 0; i < 4; ++i) {  // four positions of four dims
      const __m256i key = _mm256_cvtepi8_epi16(load_16(keys + group * kGroup + i * 16));
      for (std::size_t v = 0; v < kVectors; ++v)
        sum[v][i] = _mm256_add_epi32(sum[v][i], _mm256_madd_epi16(key, query[v]));
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < 2; ++i) total[v][i] = add_pairs(sum[v][2 * i], sum[v][2 * i + 1]);
}

template <std::size_t kVectors>
void score_tile(const std::int8_t* keys, const std::byte* scales, const KeyTiles& tiles, const CodeQueries& queries,
                std::size_t first, float step, float* scores) {
  const std::size_t num_groups = tiles.head_dim / 4, block_groups = tiles.bits == 8 ? 8 : num_groups;
  __m256 sum[kVectors][2];  // from -0: adding to it changes nothing, not even the sign of a zero
  for (std::size_t v = 0; v < kVectors; ++v) sum[v][0] = sum[v][1] = _mm256_set1_ps(-0.0f);
  for (std::size_t group = 0; group < num_groups; group += block_groups, scales += scale_row_bytes(tiles.bits)) {
    const std::size_t end = group + block_groups < num_groups ? group + block_groups : num_groups;
    __m256i total[kVectors][2];
    add_groups<kVectors>(keys, group, end, queries.codes + first * tiles.head_dim, tiles.head_dim, total);
    for (std::size_t v = 0; v < kVectors; ++v)
      for (std::size_t i = 0; i < 2; ++i) {
        const __m256 key_scales = load_scales(scales, 8 * i, tiles.bits, tiles.exponent);
        const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(total[v][i]), key_scales);
        sum[v][i] = _mm256_add_ps(sum[v][i], product);
      }
  }
  for (std::size_t v = 0; v < kVectors; ++v) {
    const __m256 scale = _mm256_set1_ps(queries.scales[first + v] * step);
    const __m256 offset = _mm256_set1_ps(queries.offsets[first + v]);
    for (std::size_t i = 0; i < 2; ++i)
      _mm256_storeu_ps(scores + (first + v) * kPartialSlots + i * 8,
                       _mm256_add_ps(_mm256_mul_ps(sum[v][i], scale), offset));
  }
}

void score_codes(const KeyTiles& tiles, const CodeQueries& queries, float* scores) {
  alignas(32) std::int8_t room[kMaxTiles * kTile * 512];
  const std::int8_t* keys = expand_avx2({tiles.codes, tiles.num_tiles, tiles.head_dim / 4, tiles.bits, true}, room);
  const float step = tiles.bits == 8 ? 1.0f : codebook(tiles.bits).step;
  const std::size_t num_blocks = tiles.bits == 8 ? (tiles.head_dim + 31) / 32 : 1;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile, scores += kTile) {
    const std::int8_t* tile_keys = keys + tile * tiles.head_dim * kTile;
    const std::byte* scales = tiles.scales + tile * num_blocks * scale_row_bytes(tiles.bits);
    std::size_t v = 0;
    for (; v + 3 <= queries.num_vectors; v += 3) score_tile<3>(tile_keys, scales, tiles, queries, v, step, scores);
    if (queries.num_vectors - v == 2) score_tile<2>(tile_keys, scales, tiles, queries, v, step, scores);
    if (queries.num_vectors - v == 1) score_tile<1>(tile_keys, scales, tiles, queries, v, step, scores);
  }
}

template <std::size_t kVectors>
void score_tile_float16(const std::byte* keys, std::size_t head_dim, const float* queries, float* scores) {
  __m256 sum[kVectors][2];
  for (std::size_t v = 0; v < kVectors; ++v) sum[v][0] = sum[v][1] = _mm256_setzero_ps();
  for (std::size_t d = 0; d < head_dim; ++d) {
    const __m256 low = load_float16(keys + d * kTile * 2), high = load_float16(keys + d * kTile * 2 + kTile);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m256 query = _mm256_set1_ps(queries[v * head_dim + d]);
      sum[v][0] = _mm256_fmadd_ps(low, query, sum[v][0]);
      sum[v][1] = _mm256_fmadd_ps(high, query, sum[v][1]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < 2; ++i) _mm256_storeu_ps(scores + v * kPartialSlots + i * 8, sum[v][i]);
}

void score_float16(const KeyTiles& tiles, const float* queries, std::size_t num_vectors, float* scores) {
  const std::size_t head_dim = tiles.head_dim;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    const std::byte* keys = tiles.codes + tile * head_dim * kTile * 2;
    float* to = scores + tile * kTile;
    std::size_t v = 0;
    for (; v + 6 <= num_vectors; v += 6)
      score_tile_float16<6>(keys, head_dim, queries + v * head_dim, to + v * kPartialSlots);
    for (; v + 3 <= num_vectors; v += 3)
      score_tile_float16<3>(keys, head_dim, queries + v * head_dim, to + v * kPartialSlots);
    for (; v < num_vectors; ++v) score_tile_float16<1>(keys, head_dim, queries + v * head_dim, to + v * kPartialSlots);
  }
}

// ---- weights

__m256 exp_nonpositive_8(__m256 x) {
  using namespace exponential;
  const __m256 in_range = _mm256_cmp_ps(x, _mm256_set1_ps(kLowest), _CMP_GE_OQ);
  const __m256 rounded = _mm256_fmadd_ps(x, _mm256_set1_ps(kLog2E), _mm256_set1_ps(kRound));
  const __m256 n = _mm256_sub_ps(rounded, _mm256_set1_ps(kRound));
  const __m256 f = _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2), x);
  __m256 p = _mm256_fmadd_ps(f, _mm256_set1_ps(kC5), _mm256_set1_ps(kC4));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kC3));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kC2));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(rounded), 23);
  return _mm256_and_ps(in_range, _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), power)));
}

// All ones in the lanes of the eight slots from `slot` that are in [begin, end).
__m256 visible_lanes(std::size_t slot, std::size_t begin, std::size_t end) {
  const __m256i slots =
      _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(slot)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(begin)), slots);
  const __m256i before_end = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(end)), slots);
  return _mm256_castsi256_ps(_mm256_andnot_si256(below, before_end));
}

float max_lane(__m256 x) {
  const __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

SoftmaxSum softmax(float* scores, std::size_t begin, std::size_t end, std::size_t num_slots) {
  const __m256 lowest = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
  const std::size_t first = begin / kTile * kTile;
  __m256 tops = lowest;
  for (std::size_t t = first; t < end; t += 8) {
    __m256 x = _mm256_loadu_ps(scores + t);
    if (t < begin || end - t < 8) x = _mm256_blendv_ps(lowest, x, visible_lanes(t, begin, end));
    tops = _mm256_max_ps(x, tops);  // of x not a number: tops
  }
  const float max = max_lane(tops);
  for (std::size_t t = 0; t < first; t += 8) _mm256_storeu_ps(scores + t, _mm256_setzero_ps());
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  std::size_t t = first;
  for (; t < end; t += kTile)
    for (std::size_t i = 0; i < 2; ++i) {
      float* at = scores + t + i * 8;
      const __m256 x = _mm256_sub_ps(_mm256_loadu_ps(at), _mm256_set1_ps(max));
      __m256 weights = exp_nonpositive_8(x);
      if (t < begin || end - t < kTile) weights = _mm256_and_ps(visible_lanes(t + i * 8, begin, end), weights);
      sums[i] = _mm256_add_ps(sums[i], weights);
      _mm256_storeu_ps(at, weights);
    }
  for (; t < num_slots; t += 8) _mm256_storeu_ps(scores + t, _mm256_setzero_ps());
  return {max, sum_lanes(sums[0], sums[1])};
}

// Value scales; negative ones and those that are not finite as 0.
__m256 load_value_scales(const ValueTiles& tiles, std::size_t tile, std::size_t first) {
  const std::byte* row = tiles.scales + tile * scale_row_bytes(tiles.bits);
  const __m256 x = load_scales(row, first, tiles.bits, tiles.exponent);
  const __m256 finite = _mm256_cmp_ps(x, _mm256_set1_ps(std::numeric_limits<float>::max()), _CMP_LE_OQ);
  return _mm256_max_ps(_mm256_and_ps(x, finite), _mm256_setzero_ps());
}

// The weights of one tile as 16-bit integers, and the factor of their sums; both 0, if the tile is skipped.
float quantize_weights(const float* weights, __m256 low_scales, __m256 high_scales, float step, std::int16_t* out) {
  const __m256 low = _mm256_mul_ps(_mm256_loadu_ps(weights), low_scales);
  const __m256 high = _mm256_mul_ps(_mm256_loadu_ps(weights + 8), high_scales);
  const float top = max_lane(_mm256_max_ps(low, high));
  const bool used = top > kLeastTop;
  const __m256 inverse = _mm256_set1_ps(used ? 255.0f / top : 0.0f);
  const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(low, inverse)),
                b = _mm256_cvtps_epi32(_mm256_mul_ps(high, inverse));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
  return used ? top * kOver255 * step : 0.0f;
}

// ---- values

struct Weights {
  alignas(32) std::int16_t codes[kMaxVectors][kTile];
  float factors[kMaxVectors];
};

// kVectors vectors, one tile, one block of 16 dims.
template <std::size_t kVectors>
void add_block(const std::int8_t* values, std::size_t num_blocks, const Weights& weights, std::size_t first, float* out,
               std::size_t out_stride) {
  __m256i total[kVectors][4];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < 4; ++i) total[v][i] = _mm256_setzero_si256();
  for (std::size_t quad = 0; quad < 4; ++quad) {
    __m256i weight[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) weight[v] = broadcast_8(&weights.codes[first + v][quad * 4]);
    for (std::size_t i = 0; i < 4; ++i) {  // four dims of four positions
      const __m256i value = _mm256_cvtepi8_epi16(load_16(values + quad * num_blocks * kGroup + i * 16));
      for (std::size_t v = 0; v < kVectors; ++v)
        total[v][i] = _mm256_add_epi32(total[v][i], _mm256_madd_epi16(value, weight[v]));
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v) {
    const __m256 factor = _mm256_set1_ps(weights.factors[first + v]);
    for (std::size_t i = 0; i < 2; ++i) {
      float* to = out + (first + v) * out_stride + i * 8;
      const __m256 sum = _mm256_cvtepi32_ps(add_pairs(total[v][2 * i], total[v][2 * i + 1]));
      _mm256_storeu_ps(to, _mm256_fmadd_ps(sum, factor, _mm256_loadu_ps(to)));
    }
  }
}

void add_codes(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out) {
  alignas(32) std::int8_t room[kMaxTiles * kTile * 512];
  const std::int8_t* values =
      expand_avx2({tiles.codes, tiles.num_tiles, tiles.padded_dim / 4, tiles.bits, false}, room);
  const float step = codebook(tiles.bits).step;
  const std::size_t num_blocks = tiles.padded_dim / kTile;
  Weights quantized;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile, values += tiles.padded_dim * kTile) {
    const __m256 low_scales = load_value_scales(tiles, tile, 0), high_scales = load_value_scales(tiles, tile, 8);
    for (std::size_t v = 0; v < num_vectors; ++v)
      quantized.factors[v] = quantize_weights(weights + v * kPartialSlots + tile * kTile, low_scales, high_scales, step,
                                              quantized.codes[v]);
    for (std::size_t block = 0; block < num_blocks; ++block) {
      const std::int8_t* from = values + block * kGroup;
      float* to = out + block * kTile;
      std::size_t v = 0;
      for (; v + 3 <= num_vectors; v += 3) add_block<3>(from, num_blocks, quantized, v, to, tiles.padded_dim);
      if (num_vectors - v == 2) add_block<2>(from, num_blocks, quantized, v, to, tiles.padded_dim);
      if (num_vectors - v == 1) add_block<1>(from, num_blocks, quantized, v, to, tiles.padded_dim);
    }
  }
}

// kVectors vectors, 8 * kEights dims from `first_dim`, all tiles.
template <std::size_t kVectors, std::size_t kEights>
void add_block_float16(const ValueTiles& tiles, const float* weights, std::size_t first_dim, float* out) {
  __m256 sum[kVectors][kEights];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < kEights; ++i)
      sum[v][i] = _mm256_loadu_ps(out + v * tiles.padded_dim + first_dim + i * 8);
  for (std::size_t t = 0; t < tiles.num_tiles * kTile; ++t) {
    const std::byte* from = tiles.codes + (t * tiles.padded_dim + first_dim) * 2;
    __m256 value[kEights];
    for (std::size_t i = 0; i < kEights; ++i) value[i] = load_float16(from + i * 16);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m256 weight = _mm256_set1_ps(weights[v * kPartialSlots + t]);
      for (std::size_t i = 0; i < kEights; ++i) sum[v][i] = _mm256_fmadd_ps(weight, value[i], sum[v][i]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < kEights; ++i)
      _mm256_storeu_ps(out + v * tiles.padded_dim + first_dim + i * 8, sum[v][i]);
}

void add_float16(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out) {
  std::size_t v = 0;
  for (; v + 3 <= num_vectors; v += 3, weights += 3 * kPartialSlots, out += 3 * tiles.padded_dim) {
    std::size_t dim = 0;
    for (; dim + 32 <= tiles.padded_dim; dim += 32) add_block_float16<3, 4>(tiles, weights, dim, out);
    for (; dim < tiles.padded_dim; dim += 16) add_block_float16<3, 2>(tiles, weights, dim, out);
  }
  for (; v < num_vectors; ++v, weights += kPartialSlots, out += tiles.padded_dim)
    for (std::size_t dim = 0; dim < tiles.padded_dim; dim += 16) add_block_float16<1, 2>(tiles, weights, dim, out);
}

// ---- merging

void merge(float* out, float out_factor, const float* partial, float partial_factor, std::size_t num_values) {
  for (std::size_t i = 0; i < num_values; i += 8) {
    const __m256 kept = _mm256_mul_ps(_mm256_loadu_ps(out + i), _mm256_set1_ps(out_factor));
    _mm256_storeu_ps(out + i, _mm256_fmadd_ps(_mm256_loadu_ps(partial + i), _mm256_set1_ps(partial_factor), kept));
  }
}

float dot_float16(const float* query, const std::byte* vector, std::size_t head_dim) {
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (std::size_t d = 0; d < head_dim; d += 8) {
    __m256& sum = sums[d / 8 % 2];
    sum = _mm256_fmadd_ps(_mm256_loadu_ps(query + d), load_float16(vector + d * 2), sum);
  }
  return sum_lanes(sums[0], sums[1]);
}

}  // namespace

extern const AttentionKernels kAttentionAvx2;
const AttentionKernels kAttentionAvx2{score_codes, score_float16, softmax, add_codes, add_float16, merge, dot_float16};

}  // namespace polykv::core
POLYKV_TARGET_END

#endif
