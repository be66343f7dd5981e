// The linear kernels on AVX-512 with VNNI.
//
// Block formats have two kernels, which give the same bits (linear.h). For few rows, output rows are the lanes: 16 rows
// of weights stream past each activation row, as fast as memory delivers them. From kMinTileRows on, activation rows
// are the lanes: a tile is 16 of them, and unpacking and scaling weights is shared by up to four tiles.
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 header passes undefined vectors around and is warned about them (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/kernels/linear.h"
#include "core/kernels/target.h"
#include "core/kernels/unroll.h"

POLYKV_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")

namespace polykv::core {

namespace {

constexpr std::size_t kTileRows = 16;
constexpr std::size_t kMinTileRows = 13;  // measured on Zen 4: a tile takes as long as 12.6 rows in fours
constexpr std::size_t kMaxTiles = 4;      // kMaxLinearRows / kTileRows
constexpr std::size_t kFewOutputs = 16;   // output rows at a time of the kernel for few rows
constexpr std::size_t kPrefetchBytes = 16 * 1024;

__m128i load16(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
__m256i load32(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

int load_i32(const std::byte* at) {
  int value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Fetches a part of the weights that comes later, while the part `done` .. `done` + `bytes` of a group of weight rows
// at `group` is used: the next group, but at least kPrefetchBytes ahead. A group's rows are read in parallel, which the
// hardware's prefetchers do not follow. Into the second-level cache, since the first level cannot have enough misses in
// flight (measured on Zen 4, 100 MB of Q8_0: 7 GB/s without, 11 into the first level, 20 so, where plain reading gets
// 25).
void prefetch(const std::byte* group, std::size_t group_bytes, std::size_t done, std::size_t bytes) {
  const char* ahead = reinterpret_cast<const char*>(group) + std::max(group_bytes, kPrefetchBytes) + done;
  for (std::size_t line = 0; line < bytes; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
}

// `packed`: all tiles, then two int8 planes of each row that is in none.
//   tile [block]: codes [16 pairs of values i and i + 16][16 rows][2] int16, then scales and block_sums [16 rows] float
//   row  [block]: high [32] int8, low [32] uint8 (0 to 127): code = 128 * high + low
constexpr std::size_t kTileBlockBytes = 16 * 64 + 64 + 64;
constexpr std::size_t kRowBlockBytes = 64;

std::size_t num_tiles_of(std::size_t num_rows) {
  return num_rows / kTileRows + (num_rows % kTileRows >= kMinTileRows ? 1 : 0);
}

std::size_t packed_bytes(std::size_t num_rows, std::size_t num_blocks) {
  const std::size_t num_tiles = num_tiles_of(num_rows);
  const std::size_t other_rows = num_rows - std::min(num_rows, num_tiles * kTileRows);
  return num_blocks * (num_tiles * kTileBlockBytes + other_rows * kRowBlockBytes);
}

void pack_tile(const ActivationView& x, std::size_t first_row, std::byte* to) {
  const std::size_t rows = std::min(kTileRows, x.num_rows - first_row);
  if (rows < kTileRows) std::memset(to, 0, x.num_blocks * kTileBlockBytes);
  const __m512i pair_offsets =
      _mm512_slli_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 6);
  for (std::size_t b = 0; b < x.num_blocks; ++b, to += kTileBlockBytes) {
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t at = (first_row + r) * x.num_blocks + b;
      const __m512i first = _mm512_cvtepu16_epi32(load32(x.codes + at * 32));
      const __m512i second = _mm512_cvtepu16_epi32(load32(x.codes + at * 32 + 16));
      const __m512i pairs = _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
      _mm512_i32scatter_epi32(to + r * 4, pair_offsets, pairs, 1);
      std::memcpy(to + 1024 + r * 4, x.scales + at, 4);
      std::memcpy(to + 1088 + r * 4, x.block_sums + at, 4);
    }
  }
}

void pack_row(const ActivationView& x, std::size_t row, std::byte* to) {
  for (std::size_t b = 0; b < x.num_blocks; ++b, to += kRowBlockBytes) {
    const __m512i codes = _mm512_loadu_si512(x.codes + (row * x.num_blocks + b) * 32);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(_mm512_srai_epi16(codes, 7)));
    const __m512i low = _mm512_and_si512(codes, _mm512_set1_epi16(127));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + 32), _mm512_cvtepi16_epi8(low));
  }
}

void pack(const ActivationView& x, std::byte* packed) {
  std::size_t row = 0;
  for (std::size_t tile = 0; tile < num_tiles_of(x.num_rows); ++tile, row += kTileRows) {
    pack_tile(x, row, packed);
    packed += x.num_blocks * kTileBlockBytes;
  }
  for (; row < x.num_rows; ++row, packed += x.num_blocks * kRowBlockBytes) pack_row(x, row, packed);
}

// How a block lies in memory, and what must be taken from its codes to make them signed: dpbusd wants unsigned ones.
template <WeightType kType>
struct Format {
  static constexpr bool kNibbles = kType != WeightType::kQ8_0;
  static constexpr bool kHasMinimum = kType == WeightType::kQ4_1;
  static constexpr std::size_t kCodesAt = kHasMinimum ? 4 : 2;
  static constexpr std::size_t kBlockBytes = kCodesAt + (kNibbles ? 16 : 32);
  static constexpr int kOffset = kType == WeightType::kQ8_0 ? 128 : kType == WeightType::kQ4_0 ? 8 : 0;
};

// ---- few rows: 16 output rows in the lanes ----

// Blocks of 16 weight rows. Every fourth row has a pointer and the others are an offset away: with 16 pointers, GCC
// keeps most of them in vector registers and moves them back and forth.
struct Blocks {
  const std::byte* at[4];
  std::size_t row_bytes;

  Blocks(const std::byte* block, std::size_t bytes)
      : at{block, block + 4 * bytes, block + 8 * bytes, block + 12 * bytes}, row_bytes(bytes) {}

  const std::byte* row(std::size_t i) const { return at[i / 4] + i % 4 * row_bytes; }

  void advance(std::size_t bytes) { POLYKV_UNROLL for (std::size_t i = 0; i < 4; ++i) at[i] += bytes; }

  // 16 bytes, `offset` bytes into the block, of rows i, i + 4, i + 8 and i + 12.
  __m512i load_4x16(std::size_t i, std::size_t offset) const {
    const __m256i low = join(load16(row(i) + offset), load16(row(i + 4) + offset));
    const __m256i high = join(load16(row(i + 8) + offset), load16(row(i + 12) + offset));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }

  // The four bytes that each block begins with: scale, and q4_1's minimum.
  __m512i load_heads() const {
    const __m256i low = join(heads_of(0), heads_of(4)), high = join(heads_of(8), heads_of(12));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }

 private:
  static __m256i join(__m128i low, __m128i high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }

  __m128i heads_of(std::size_t i) const {
    return _mm_setr_epi32(load_i32(row(i)), load_i32(row(i + 1)), load_i32(row(i + 2)), load_i32(row(i + 3)));
  }
};

// Unsigned codes of one block of 16 weight rows: the 128-bit group g of first[i] and of second[i] holds values 0-15 and
// 16-31 of row 4g + i.
template <WeightType kType>
struct Codes {
  __m512i first[4], second[4];

  explicit Codes(const Blocks& blocks) {
    using F = Format<kType>;
    POLYKV_UNROLL for (std::size_t i = 0; i < 4; ++i) {
      const __m512i bytes = blocks.load_4x16(i, F::kCodesAt);
      if constexpr (F::kNibbles) {
        first[i] = _mm512_and_si512(bytes, _mm512_set1_epi8(15));
        second[i] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), _mm512_set1_epi8(15));
      } else {
        first[i] = _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
        second[i] = _mm512_xor_si512(blocks.load_4x16(i, F::kCodesAt + 16), _mm512_set1_epi8(-128));
      }
    }
  }
};

// Lane 4g + i: the sum of the four lanes of 128-bit group g of v[i].
__m512i sum_groups(const __m512i v[4]) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// 16 dot products of one block with one activation row, codes still unsigned. |result| <= 32 * 16383 * 255 < 2^31.
template <WeightType kType>
__m512i dot_block(const Codes<kType>& codes, const std::byte* planes) {
  const __m512i high1 = _mm512_broadcast_i32x4(load16(planes)), high2 = _mm512_broadcast_i32x4(load16(planes + 16));
  const __m512i low1 = _mm512_broadcast_i32x4(load16(planes + 32)), low2 = _mm512_broadcast_i32x4(load16(planes + 48));
  __m512i sums[4];
  POLYKV_UNROLL for (std::size_t i = 0; i < 4; ++i) {
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes.first[i], high1);
    sum = _mm512_slli_epi32(_mm512_dpbusd_epi32(sum, codes.second[i], high2), 7);
    sum = _mm512_dpbusd_epi32(sum, codes.first[i], low1);
    sums[i] = _mm512_dpbusd_epi32(sum, codes.second[i], low2);
  }
  return sum_groups(sums);
}

__m512 low_halves_to_float(__m512i heads) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(heads)); }

// kRows rows of x, from `row` on, times 16 weight rows. planes [kRows][num_blocks] (see kRowBlockBytes).
template <WeightType kType, std::size_t kRows>
void multiply_few(const ActivationView& x, std::size_t row, const std::byte* planes, const std::byte* weights,
                  std::size_t row_bytes, float* out, std::size_t out_stride) {
  using F = Format<kType>;
  __m512 sums[kRows];
  POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) sums[r] = _mm512_setzero_ps();
  Blocks blocks(weights, row_bytes);
  for (std::size_t b = 0; b < x.num_blocks; ++b) {
    prefetch(weights, kFewOutputs * row_bytes, b * kFewOutputs * F::kBlockBytes, kFewOutputs * F::kBlockBytes);
    const Codes<kType> codes(blocks);
    const __m512i heads = blocks.load_heads();
    blocks.advance(F::kBlockBytes);
    const __m512 scales = low_halves_to_float(heads);
    POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) {
      const std::size_t at = (row + r) * x.num_blocks + b;
      __m512i dot = dot_block(codes, planes + (r * x.num_blocks + b) * kRowBlockBytes);
      if constexpr (F::kOffset != 0) dot = _mm512_sub_epi32(dot, _mm512_set1_epi32(F::kOffset * x.code_sums[at]));
      const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(x.scales[at]));
      sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sums[r]);
      if constexpr (F::kHasMinimum) {
        const __m512 minima = low_halves_to_float(_mm512_srli_epi32(heads, 16));
        sums[r] = _mm512_fmadd_ps(minima, _mm512_set1_ps(x.block_sums[at]), sums[r]);
      }
    }
  }
  POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) _mm512_storeu_ps(out + r * out_stride, sums[r]);
}

template <WeightType kType>
void multiply_few_rows(const ActivationView& x, std::size_t row, const std::byte* planes, const std::byte* weights,
                       std::size_t row_bytes, float* out, std::size_t out_stride) {
  while (row < x.num_rows) {
    const std::size_t rows = std::min<std::size_t>(x.num_rows - row, 4);
    switch (rows) {
      case 1:
        multiply_few<kType, 1>(x, row, planes, weights, row_bytes, out, out_stride);
        break;
      case 2:
        multiply_few<kType, 2>(x, row, planes, weights, row_bytes, out, out_stride);
        break;
      case 3:
        multiply_few<kType, 3>(x, row, planes, weights, row_bytes, out, out_stride);
        break;
      default:
        multiply_few<kType, 4>(x, row, planes, weights, row_bytes, out, out_stride);
        break;
    }
    row += rows;
    planes += rows * x.num_blocks * kRowBlockBytes;
    out += rows * out_stride;
  }
}

// ---- many rows: 16 activation rows in the lanes ----

// A block's 32 codes, signed, as pairs of int16: values i and i + 16 in lane i.
template <WeightType kType>
__m512i load_pairs(const std::byte* block) {
  using F = Format<kType>;
  if constexpr (F::kNibbles) {
    const __m512i bytes = _mm512_cvtepu8_epi32(load16(block + F::kCodesAt));
    // (bytes | bytes << 12) & mask: the low nibble stays, the high one goes up to bit 16
    const __m512i codes =
        _mm512_ternarylogic_epi32(bytes, _mm512_slli_epi32(bytes, 12), _mm512_set1_epi32(0x000f000f), 0xa8);
    return F::kOffset == 0 ? codes : _mm512_sub_epi16(codes, _mm512_set1_epi16(F::kOffset));
  } else {
    const __m512i first = _mm512_cvtepi8_epi32(load16(block + F::kCodesAt));
    const __m512i second = _mm512_cvtepi8_epi32(load16(block + F::kCodesAt + 16));
    return _mm512_mask_blend_epi16(0xaaaaaaaau, first, _mm512_slli_epi32(second, 16));
  }
}

// A run of blocks of 16 weight rows, unpacked, so that unpacking waits for nothing and is shared by all tiles.
struct Unpacked {
  static constexpr std::size_t kBlocks = 8;
  alignas(64) int pairs[kBlocks][kFewOutputs][16];
  alignas(64) float scales[kBlocks][kFewOutputs];
  alignas(64) float minima[kBlocks][kFewOutputs];

  template <WeightType kType>
  void fill(const std::byte* weights, std::size_t row_bytes, std::size_t num_blocks) {
    using F = Format<kType>;
    Blocks blocks(weights, row_bytes);
    for (std::size_t b = 0; b < num_blocks; ++b, blocks.advance(F::kBlockBytes)) {
      const __m512i heads = blocks.load_heads();
      _mm512_store_ps(scales[b], low_halves_to_float(heads));
      if constexpr (F::kHasMinimum) _mm512_store_ps(minima[b], low_halves_to_float(_mm512_srli_epi32(heads, 16)));
      for (std::size_t o = 0; o < kFewOutputs; ++o) {
        _mm512_store_si512(pairs[b][o], load_pairs<kType>(blocks.row(o)));
      }
    }
  }
};

using TileSums = __m512[kFewOutputs];  // a lane for each row of the tile

// Adds num_blocks blocks of kTiles tiles, which are tile_bytes apart, times the unpacked weights. Dot products take the
// codes as pairs of int16: two values a lane and instruction, as with two int8 planes, but nothing to put together and
// no offset. Eight of them and their eight sums stay in registers (64 rows: 15 % less time than 16 and sums in memory).
template <WeightType kType, std::size_t kTiles>
void add_tiles(const Unpacked& weights, const std::byte* tiles, std::size_t tile_bytes, std::size_t num_blocks,
               TileSums* sums) {
  constexpr std::size_t kOutputs = 8 / kTiles;
  for (std::size_t first = 0; first < kFewOutputs; first += kOutputs) {
    __m512 results[kTiles][kOutputs];
    POLYKV_UNROLL for (std::size_t t = 0; t < kTiles; ++t) {
      POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) results[t][o] = sums[t][first + o];
    }
    for (std::size_t b = 0; b < num_blocks; ++b) {
      const std::byte* tile = tiles + b * kTileBlockBytes;
      __m512i dots[kTiles][kOutputs];
      POLYKV_UNROLL for (std::size_t t = 0; t < kTiles; ++t) {
        POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) dots[t][o] = _mm512_setzero_si512();
      }
      for (std::size_t pair = 0; pair < 16; ++pair) {
        __m512i codes[kTiles];
        POLYKV_UNROLL for (std::size_t t = 0; t < kTiles; ++t) {
          codes[t] = _mm512_load_si512(tile + t * tile_bytes + pair * 64);
        }
        POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) {
          const __m512i weight = _mm512_set1_epi32(weights.pairs[b][first + o][pair]);
          POLYKV_UNROLL for (std::size_t t = 0; t < kTiles; ++t) {
            dots[t][o] = _mm512_dpwssd_epi32(dots[t][o], codes[t], weight);
          }
        }
      }
      POLYKV_UNROLL for (std::size_t t = 0; t < kTiles; ++t) {
        const __m512 row_scales = _mm512_load_ps(tile + t * tile_bytes + 1024);
        const __m512 block_sums = _mm512_load_ps(tile + t * tile_bytes + 1088);
        POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) {
          const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(weights.scales[b][first + o]), row_scales);
          results[t][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t][o]), scale, results[t][o]);
          if constexpr (Format<kType>::kHasMinimum) {
            results[t][o] = _mm512_fmadd_ps(_mm512_set1_ps(weights.minima[b][first + o]), block_sums, results[t][o]);
          }
        }
      }
    }
    POLYKV_UNROLL for (std::size_t t = 0; t < kTiles; ++t) {
      POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) sums[t][first + o] = results[t][o];
    }
  }
}

// out[row][0..3] for the `rows` first of 16 rows, from s[output], a lane for each row.
void store_transposed(const __m512* s, float* out, std::size_t out_stride, std::size_t rows) {
  const __m512 a = _mm512_unpacklo_ps(s[0], s[1]), b = _mm512_unpackhi_ps(s[0], s[1]);
  const __m512 c = _mm512_unpacklo_ps(s[2], s[3]), d = _mm512_unpackhi_ps(s[2], s[3]);
  alignas(64) float quads[4][16];  // [row % 4][row / 4][output]
  _mm512_store_ps(quads[0], _mm512_shuffle_ps(a, c, 0x44));
  _mm512_store_ps(quads[1], _mm512_shuffle_ps(a, c, 0xee));
  _mm512_store_ps(quads[2], _mm512_shuffle_ps(b, d, 0x44));
  _mm512_store_ps(quads[3], _mm512_shuffle_ps(b, d, 0xee));
  for (std::size_t row = 0; row < rows; ++row) std::memcpy(out + row * out_stride, &quads[row % 4][row / 4 * 4], 16);
}

// All tiles times 16 weight rows.
template <WeightType kType>
void multiply_tiles(const ActivationView& x, std::size_t num_tiles, const std::byte* weights, std::size_t row_bytes,
                    float* out, std::size_t out_stride) {
  using F = Format<kType>;
  const std::size_t tile_bytes = x.num_blocks * kTileBlockBytes;
  TileSums sums[kMaxTiles];
  for (std::size_t t = 0; t < num_tiles; ++t) {
    for (__m512& sum : sums[t]) sum = _mm512_setzero_ps();
  }
  Unpacked unpacked;
  for (std::size_t b = 0; b < x.num_blocks; b += Unpacked::kBlocks) {
    const std::size_t num_blocks = std::min(Unpacked::kBlocks, x.num_blocks - b);
    prefetch(weights, kFewOutputs * row_bytes, b * kFewOutputs * F::kBlockBytes,
             num_blocks * kFewOutputs * F::kBlockBytes);
    unpacked.fill<kType>(weights + b * F::kBlockBytes, row_bytes, num_blocks);
    const std::byte* tile = x.packed + b * kTileBlockBytes;
    std::size_t t = 0;
    for (; t + 2 <= num_tiles; t += 2) {
      add_tiles<kType, 2>(unpacked, tile + t * tile_bytes, tile_bytes, num_blocks, sums + t);
    }
    if (t < num_tiles) add_tiles<kType, 1>(unpacked, tile + t * tile_bytes, tile_bytes, num_blocks, sums + t);
  }
  for (std::size_t t = 0; t < num_tiles; ++t) {
    const std::size_t rows = std::min(kTileRows, x.num_rows - t * kTileRows);
    float* to = out + t * kTileRows * out_stride;
    for (std::size_t o = 0; o < kFewOutputs; o += 4) store_transposed(sums[t] + o, to + o, out_stride, rows);
  }
}

template <WeightType kType>
void multiply_blocks(const ActivationView& x, const WeightMatrix& weights, std::size_t first_output,
                     std::size_t num_outputs, float* out, std::size_t out_stride) {
  if (num_outputs < kFewOutputs) {  // too few to fill the lanes; the same bits
    kLinearScalar.multiply(x, weights, first_output, num_outputs, out, out_stride);
    return;
  }
  const std::size_t row_bytes = weight_row_bytes(kType, weights.num_cols);
  const std::size_t num_tiles = num_tiles_of(x.num_rows);
  const std::size_t row = num_tiles * kTileRows;  // the first in no tile
  const std::byte* planes = x.packed + num_tiles * x.num_blocks * kTileBlockBytes;
  for (std::size_t o = 0; o < num_outputs; o += kFewOutputs) {
    o = std::min(o, num_outputs - kFewOutputs);  // the last 16 may overlap those before
    const std::byte* group = weights.data + (first_output + o) * row_bytes;
    if (num_tiles != 0) multiply_tiles<kType>(x, num_tiles, group, row_bytes, out + o, out_stride);
    if (row < x.num_rows) {
      multiply_few_rows<kType>(x, row, planes, group, row_bytes, out + row * out_stride + o, out_stride);
    }
  }
}

// ---- float formats: 16 values in the lanes; lane i % 16 of a sum takes value i, in order ----

template <WeightType kType>
__m512 load_floats(const std::byte* row, std::size_t i, __mmask16 mask) {
  if constexpr (kType == WeightType::kF32) {
    return _mm512_maskz_loadu_ps(mask, row + 4 * i);
  } else {
    const __m256i halves = _mm256_maskz_loadu_epi16(mask, row + 2 * i);
    if constexpr (kType == WeightType::kF16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
}

template <WeightType kType, std::size_t kRows, std::size_t kOutputs>
void multiply_floats(const ActivationView& x, std::size_t row, const std::byte* weights, std::size_t row_bytes,
                     float* out, std::size_t out_stride) {
  __m512 sums[kOutputs][kRows];
  POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) {
    POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) sums[o][r] = _mm512_setzero_ps();
  }
  constexpr std::size_t kStepBytes = kType == WeightType::kF32 ? 64 : 32;
  const std::size_t stride = x.num_blocks * 32;
  const float* values = x.values + row * stride;
  for (std::size_t i = 0; i < x.num_cols; i += 16) {
    prefetch(weights, kOutputs * row_bytes, i / 16 * kOutputs * kStepBytes, kOutputs * kStepBytes);
    const std::size_t left = x.num_cols - i;
    const __mmask16 mask = left >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1);
    __m512 from_row[kRows];
    POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) from_row[r] = _mm512_loadu_ps(values + r * stride + i);
    POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) {
      const __m512 weight = load_floats<kType>(weights + o * row_bytes, i, mask);
      POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) sums[o][r] =
          _mm512_fmadd_ps(weight, from_row[r], sums[o][r]);
    }
  }
  POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) {
    POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) out[r * out_stride + o] = _mm512_reduce_add_ps(sums[o][r]);
  }
}

template <WeightType kType, std::size_t kOutputs>
void multiply_float_rows(const ActivationView& x, const std::byte* weights, std::size_t row_bytes, float* out,
                         std::size_t out_stride) {
  std::size_t row = 0;
  for (; row + 4 <= x.num_rows; row += 4) {
    multiply_floats<kType, 4, kOutputs>(x, row, weights, row_bytes, out + row * out_stride, out_stride);
  }
  for (; row < x.num_rows; ++row) {
    multiply_floats<kType, 1, kOutputs>(x, row, weights, row_bytes, out + row * out_stride, out_stride);
  }
}

template <WeightType kType>
void multiply_all_floats(const ActivationView& x, const WeightMatrix& weights, std::size_t first_output,
                         std::size_t num_outputs, float* out, std::size_t out_stride) {
  const std::size_t row_bytes = weight_row_bytes(kType, weights.num_cols);
  const std::byte* at = weights.data + first_output * row_bytes;
  std::size_t o = 0;
  for (; o + 4 <= num_outputs; o += 4) {
    multiply_float_rows<kType, 4>(x, at + o * row_bytes, row_bytes, out + o, out_stride);
  }
  for (; o < num_outputs; ++o) multiply_float_rows<kType, 1>(x, at + o * row_bytes, row_bytes, out + o, out_stride);
}

void multiply(const ActivationView& x, const WeightMatrix& weights, std::size_t first_output, std::size_t num_outputs,
              float* out, std::size_t out_stride) {
  const auto with = [&](auto function) { function(x, weights, first_output, num_outputs, out, out_stride); };
  switch (weights.type) {
    case WeightType::kF32:
      return with(multiply_all_floats<WeightType::kF32>);
    case WeightType::kF16:
      return with(multiply_all_floats<WeightType::kF16>);
    case WeightType::kBF16:
      return with(multiply_all_floats<WeightType::kBF16>);
    case WeightType::kQ8_0:
      return with(multiply_blocks<WeightType::kQ8_0>);
    case WeightType::kQ4_0:
      return with(multiply_blocks<WeightType::kQ4_0>);
    case WeightType::kQ4_1:
      return with(multiply_blocks<WeightType::kQ4_1>);
  }
}

}  // namespace

const LinearKernels kLinearAvx512{packed_bytes, pack, multiply};

}  // namespace polykv::core

POLYKV_TARGET_END
#endif
