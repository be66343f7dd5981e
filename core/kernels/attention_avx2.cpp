// AVX2, FMA and F16C.
//
// vpmaddubsw saturates at 32767, and 255 * 127 * 2 is more: so codes and weights are multiplied as 16-bit integers
// (vpmaddwd), which takes the 15-bit query in one piece where bytes need two.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>
#include <limits>

#include "core/kernels/attention.h"
#include "core/kernels/expand_avx2.h"
#include "core/kernels/target.h"
#include "core/kernels/unroll.h"

POLYKV_TARGET_BEGIN("avx2,fma,f16c")
namespace polykv::core {
namespace {

constexpr std::size_t kTile = 16;

__m256 load_float16(const std::byte* bytes) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// Eight scales of codes of `bits` bits, from the one numbered `first` of a row: bytes of trellis codes, or float16.
constexpr std::size_t scale_row_bytes(unsigned bits) { return bits <= 5 ? kTile : 2 * kTile; }
__m256 load_scales(const std::byte* row, std::size_t first, unsigned bits, int exponent) {
  if (bits > 5) return load_float16(row + 2 * first);
  const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + first)));
  const __m256i scales = _mm256_add_epi32(_mm256_slli_epi32(x, 18), _mm256_set1_epi32((exponent + 127) << 23));
  return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpeq_epi32(x, _mm256_setzero_si256()), scales));
}

// Two 16-bit integers in every 32-bit lane.
__m256i broadcast_4(const std::int16_t* integers) {
  return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(integers)));
}

// 16 floats as two registers: lanes 0 to 7 and 8 to 15. Adds lanes 8 apart, then 4, 2 and 1.
float sum_lanes(__m256 low, __m256 high) {
  const __m256 a = _mm256_add_ps(low, high);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

// What kVectors vectors' four 16-bit integers for a group, in the order 0, 2, 1, 3 and `stride` of them apart, make of
// its integers: added to `sums`.
template <std::size_t kVectors>
void add_products(const Words& first, const Words& second, const std::int16_t* fours, std::size_t stride,
                  __m256i (&sums)[kVectors][2]) {
  POLYKV_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) {
    const __m256i even = broadcast_4(fours + v * stride), odd = broadcast_4(fours + v * stride + 2);
    sums[v][0] = _mm256_add_epi32(sums[v][0], _mm256_madd_epi16(first.even, even));
    sums[v][1] = _mm256_add_epi32(sums[v][1], _mm256_madd_epi16(second.even, even));
    sums[v][0] = _mm256_add_epi32(sums[v][0], _mm256_madd_epi16(first.odd, odd));
    sums[v][1] = _mm256_add_epi32(sums[v][1], _mm256_madd_epi16(second.odd, odd));
  }
}

constexpr std::size_t kVectorsAtOnce = 6;

// ---- scores

// kVectors vectors from `first` on against one tile. Sums of blocks wait in `scores`.
template <std::size_t kVectors, typename Keys>
void score_tile(const Keys& keys, std::size_t tile, const KeyTiles& tiles, const CodeQueries& queries,
                const float* factors, std::size_t first, float* scores) {
  const std::size_t num_groups = tiles.head_dim / 4, block_groups = tiles.bits == 8 ? 8 : num_groups;
  const std::size_t num_blocks = tiles.bits == 8 ? (num_groups + 7) / 8 : 1;
  const std::int16_t* codes = queries.codes + first * 4;
  scores += first * kScoreStride + tile * kTile;
  for (std::size_t block = 0, group = 0; block < num_blocks; ++block) {
    __m256i total[kVectors][2];
    POLYKV_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) total[v][0] = total[v][1] = _mm256_setzero_si256();
    for (const std::size_t end = group + block_groups < num_groups ? group + block_groups : num_groups; group < end;
         ++group, codes += queries.stride * 4) {
      const Words half_0 = keys.template load<0>(tile, group), half_1 = keys.template load<1>(tile, group);
      add_products<kVectors>(half_0, half_1, codes, 4, total);
    }
    const std::byte* scales = tiles.scales + (tile * num_blocks + block) * scale_row_bytes(tiles.bits);
    __builtin_prefetch(scales + tiles.ahead, 0, 3);
    for (std::size_t i = 0; i < 2; ++i) {
      const __m256 key_scales = load_scales(scales, 8 * i, tiles.bits, tiles.exponent);
      POLYKV_UNROLL
      for (std::size_t v = 0; v < kVectors; ++v) {
        float* to = scores + v * kScoreStride + i * 8;
        __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(total[v][i]), key_scales);
        if (block > 0) sum = _mm256_add_ps(_mm256_loadu_ps(to), sum);
        if (block + 1 == num_blocks)
          sum = _mm256_add_ps(_mm256_mul_ps(sum, _mm256_set1_ps(factors[first + v])),
                              _mm256_set1_ps(queries.offsets[first + v]));
        _mm256_storeu_ps(to, sum);
      }
    }
  }
}

template <std::size_t kVectors>
void score_tile_float16(const std::byte* keys, std::size_t ahead, std::size_t head_dim, const float* queries,
                        float* scores) {
  __m256 sum[kVectors][2];
  for (std::size_t v = 0; v < kVectors; ++v) sum[v][0] = sum[v][1] = _mm256_setzero_ps();
  for (std::size_t d = 0; d < head_dim; ++d) {
    __builtin_prefetch(keys + d * kTile * 2 + ahead, 0, 3);
    const __m256 low = load_float16(keys + d * kTile * 2), high = load_float16(keys + d * kTile * 2 + kTile);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m256 query = _mm256_set1_ps(queries[v * head_dim + d]);
      sum[v][0] = _mm256_fmadd_ps(low, query, sum[v][0]);
      sum[v][1] = _mm256_fmadd_ps(high, query, sum[v][1]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < 2; ++i) _mm256_storeu_ps(scores + v * kScoreStride + i * 8, sum[v][i]);
}

void score_float16(const KeyTiles& tiles, const float* queries, std::size_t num_vectors, float* scores) {
  const std::size_t head_dim = tiles.head_dim;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    const std::byte* keys = tiles.codes + tile * head_dim * kTile * 2;
    float* to = scores + tile * kTile;
    std::size_t v = 0;
    for (; v + 6 <= num_vectors; v += 6)
      score_tile_float16<6>(keys, tiles.ahead, head_dim, queries + v * head_dim, to + v * kScoreStride);
    for (; v + 3 <= num_vectors; v += 3)
      score_tile_float16<3>(keys, tiles.ahead, head_dim, queries + v * head_dim, to + v * kScoreStride);
    for (; v < num_vectors; ++v)
      score_tile_float16<1>(keys, tiles.ahead, head_dim, queries + v * head_dim, to + v * kScoreStride);
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
  __builtin_prefetch(row + tiles.ahead, 0, 3);
  const __m256 x = load_scales(row, first, tiles.bits, tiles.exponent);
  const __m256 finite = _mm256_cmp_ps(x, _mm256_set1_ps(std::numeric_limits<float>::max()), _CMP_LE_OQ);
  return _mm256_max_ps(_mm256_and_ps(x, finite), _mm256_setzero_ps());
}

// One vector's weights of a page as 16-bit integers, of four neighbouring positions in the order 0, 2, 1, 3.
struct Weights {
  alignas(32) std::int16_t codes[kMaxTiles][kTile];
  float factors[8], inverses[8];  // of a tile: at `lane`
  static constexpr std::size_t lane(std::size_t tile) { return tile % 2 * 4 + tile / 2 * 2; }
};

// The weights of each vector; zeros in skipped tiles.
void quantize_weights(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, Weights* out) {
  __m256 scales[kMaxTiles][2];
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile)
    for (std::size_t i = 0; i < 2; ++i) scales[tile][i] = load_value_scales(tiles, tile, 8 * i);
  const __m256i order =
      _mm256_set_epi64x(0x0f0e0b0a0d0c0908, 0x0706030205040100, 0x0f0e0b0a0d0c0908, 0x0706030205040100);
  for (std::size_t v = 0; v < num_vectors; ++v, weights += kScoreStride) {
    __m256 x[kMaxTiles][2], tops[kMaxTiles];
    for (std::size_t tile = 0; tile < kMaxTiles; ++tile) {
      for (std::size_t i = 0; i < 2; ++i)
        x[tile][i] = tile < tiles.num_tiles
                         ? _mm256_mul_ps(_mm256_loadu_ps(weights + tile * kTile + i * 8), scales[tile][i])
                         : _mm256_setzero_ps();
      tops[tile] = _mm256_max_ps(x[tile][0], x[tile][1]);
    }
    const __m256 top_01 =
        _mm256_max_ps(_mm256_permute2f128_ps(tops[0], tops[1], 0x20), _mm256_permute2f128_ps(tops[0], tops[1], 0x31));
    const __m256 top_23 =
        _mm256_max_ps(_mm256_permute2f128_ps(tops[2], tops[3], 0x20), _mm256_permute2f128_ps(tops[2], tops[3], 0x31));
    __m256 top = _mm256_max_ps(_mm256_shuffle_ps(top_01, top_23, 0x44), _mm256_shuffle_ps(top_01, top_23, 0xee));
    top = _mm256_max_ps(top, _mm256_permute_ps(top, 0xb1));  // of tiles 0, 0, 2, 2, 1, 1, 3, 3
    const __m256 used = _mm256_cmp_ps(top, _mm256_set1_ps(kLeastTop), _CMP_GT_OQ);
    const __m256 factor =
        _mm256_mul_ps(_mm256_mul_ps(top, _mm256_set1_ps(kOver255)), _mm256_set1_ps(codebook(tiles.bits).step));
    _mm256_storeu_ps(out[v].factors, _mm256_and_ps(used, factor));
    _mm256_storeu_ps(out[v].inverses, _mm256_and_ps(used, _mm256_div_ps(_mm256_set1_ps(255.0f), top)));
    for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
      const __m256 inverse = _mm256_set1_ps(out[v].inverses[Weights::lane(tile)]);
      const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(x[tile][0], inverse)),
                                                _mm256_cvtps_epi32(_mm256_mul_ps(x[tile][1], inverse)));
      store_32(out[v].codes[tile], _mm256_permute4x64_epi64(_mm256_shuffle_epi8(packed, order), 0xd8));
    }
  }
}

// ---- values

// kVectors vectors from `first` on, 16 dims, all tiles.
template <std::size_t kVectors, typename Values>
void add_block(const Values& values, std::size_t block, const ValueTiles& tiles, const Weights* weights,
               std::size_t first, float* out) {
  constexpr std::size_t kStride = sizeof(Weights) / sizeof(std::int16_t);
  const std::size_t num_blocks = tiles.padded_dim / kTile;
  out += first * tiles.padded_dim + block * kTile;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    __m256i total[kVectors][2];
    POLYKV_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) total[v][0] = total[v][1] = _mm256_setzero_si256();
    POLYKV_NO_UNROLL
    for (std::size_t quad = 0; quad < 4; ++quad) {
      const std::int16_t* codes = weights[first].codes[tile] + quad * 4;
      const std::size_t group = quad * num_blocks + block;
      const Words half_0 = values.template load<0>(tile, group), half_1 = values.template load<1>(tile, group);
      add_products<kVectors>(half_0, half_1, codes, kStride, total);
    }
    POLYKV_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m256 factor = _mm256_set1_ps(weights[first + v].factors[Weights::lane(tile)]);
      for (std::size_t i = 0; i < 2; ++i) {
        float* to = out + v * tiles.padded_dim + i * 8;
        _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[v][i]), factor, _mm256_loadu_ps(to)));
      }
    }
  }
}

#include "core/kernels/attention_body.inc"

// kVectors vectors, 8 * kEights dims from `first_dim`, all tiles.
template <std::size_t kVectors, std::size_t kEights>
void add_block_float16(const ValueTiles& tiles, const float* weights, std::size_t first_dim, float* out) {
  __m256 sum[kVectors][kEights];
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < kEights; ++i)
      sum[v][i] = _mm256_loadu_ps(out + v * tiles.padded_dim + first_dim + i * 8);
  for (std::size_t t = 0; t < tiles.num_tiles * kTile; ++t) {
    const std::byte* from = tiles.codes + (t * tiles.padded_dim + first_dim) * 2;
    for (std::size_t i = 0; i < kEights; i += 4) __builtin_prefetch(from + i * 16 + tiles.ahead, 0, 3);
    __m256 value[kEights];
    for (std::size_t i = 0; i < kEights; ++i) value[i] = load_float16(from + i * 16);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m256 weight = _mm256_set1_ps(weights[v * kScoreStride + t]);
      for (std::size_t i = 0; i < kEights; ++i) sum[v][i] = _mm256_fmadd_ps(weight, value[i], sum[v][i]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v)
    for (std::size_t i = 0; i < kEights; ++i)
      _mm256_storeu_ps(out + v * tiles.padded_dim + first_dim + i * 8, sum[v][i]);
}

void add_float16(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out) {
  std::size_t v = 0;
  for (; v + 3 <= num_vectors; v += 3, weights += 3 * kScoreStride, out += 3 * tiles.padded_dim) {
    std::size_t dim = 0;
    for (; dim + 32 <= tiles.padded_dim; dim += 32) add_block_float16<3, 4>(tiles, weights, dim, out);
    for (; dim < tiles.padded_dim; dim += 16) add_block_float16<3, 2>(tiles, weights, dim, out);
  }
  for (; v < num_vectors; ++v, weights += kScoreStride, out += tiles.padded_dim)
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
