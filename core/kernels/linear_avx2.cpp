// The linear kernels on AVX2 with FMA and F16C.
//
// Block formats have two kernels, which give the same bits (linear.h): for few rows, 8 output rows are the lanes; from
// kMinTileRows on, activation rows are: a tile is 8 of them. Codes are int16 in both: madd takes 16 values an
// instruction, exactly, and maddubs would save nothing: it needs two int8 planes and another madd to widen.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/kernels/linear.h"
#include "core/kernels/target.h"
#include "core/kernels/unroll.h"

POLYKV_TARGET_BEGIN("avx2,fma,f16c")

namespace polykv::core {

namespace {

constexpr std::size_t kLanes = 8;  // output rows or activation rows at a time
constexpr std::size_t kMinTileRows = 5;
constexpr std::size_t kMaxTiles = 8;  // kMaxLinearRows / kLanes
constexpr std::size_t kPrefetchBytes = 16 * 1024;

__m128i load16(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
__m256i load32(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

// Fetches a part of the weights that comes later; see linear_avx512.cpp.
void prefetch(const std::byte* group, std::size_t group_bytes, std::size_t done, std::size_t bytes) {
  const char* ahead = reinterpret_cast<const char*>(group) + std::max(group_bytes, kPrefetchBytes) + done;
  for (std::size_t line = 0; line < bytes; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
}

// `packed`: tiles [block] of codes [16 pairs of neighbours][8 rows][2] int16, then scales and block_sums [8 rows]
// float.
constexpr std::size_t kTileBlockBytes = 16 * 32 + 32 + 32;

std::size_t num_tiles_of(std::size_t num_rows) {
  return num_rows / kLanes + (num_rows % kLanes >= kMinTileRows ? 1 : 0);
}

std::size_t packed_bytes(std::size_t num_rows, std::size_t num_blocks) {
  return num_tiles_of(num_rows) * num_blocks * kTileBlockBytes;
}

void pack(const ActivationView& x, std::byte* packed) {
  for (std::size_t row = 0; row < num_tiles_of(x.num_rows) * kLanes; row += kLanes) {
    const std::size_t rows = std::min(kLanes, x.num_rows - row);
    if (rows < kLanes) std::memset(packed, 0, x.num_blocks * kTileBlockBytes);
    for (std::size_t b = 0; b < x.num_blocks; ++b, packed += kTileBlockBytes) {
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t at = (row + r) * x.num_blocks + b;
        for (std::size_t pair = 0; pair < 16; ++pair) {
          std::memcpy(packed + pair * 32 + r * 4, x.codes + at * 32 + 2 * pair, 4);
        }
        std::memcpy(packed + 512 + r * 4, x.scales + at, 4);
        std::memcpy(packed + 544 + r * 4, x.block_sums + at, 4);
      }
    }
  }
}

template <WeightType kType>
struct Format {
  static constexpr bool kNibbles = kType != WeightType::kQ8_0;
  static constexpr bool kHasMinimum = kType == WeightType::kQ4_1;
  static constexpr std::size_t kCodesAt = kHasMinimum ? 4 : 2;
  static constexpr std::size_t kBlockBytes = kCodesAt + (kNibbles ? 16 : 32);
};

// A block's 32 codes, signed, values 0-15 and 16-31.
template <WeightType kType>
struct Codes {
  __m256i first, second;

  explicit Codes(const std::byte* block) {
    const std::byte* at = block + Format<kType>::kCodesAt;
    if constexpr (Format<kType>::kNibbles) {
      const __m128i bytes = load16(at), mask = _mm_set1_epi8(15);
      first = _mm256_cvtepu8_epi16(_mm_and_si128(bytes, mask));
      second = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
      if constexpr (kType == WeightType::kQ4_0) {
        first = _mm256_sub_epi16(first, _mm256_set1_epi16(8));
        second = _mm256_sub_epi16(second, _mm256_set1_epi16(8));
      }
    } else {
      first = _mm256_cvtepi8_epi16(load16(at));
      second = _mm256_cvtepi8_epi16(load16(at + 16));
    }
  }

  __m256i times(const std::int16_t* codes) const {
    return _mm256_add_epi32(_mm256_madd_epi16(first, load32(codes)), _mm256_madd_epi16(second, load32(codes + 16)));
  }
};

// Lane i: the sum of the lanes of v[i].
__m256i sum_each(const __m256i v[kLanes]) {
  const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
  const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

// The float16 at `at` of each of 8 weight rows.
__m256 load_halves(const std::byte* at, std::size_t row_bytes) {
  const auto half = [&](std::size_t i) {
    std::int16_t value;
    std::memcpy(&value, at + i * row_bytes, sizeof value);
    return value;
  };
  return _mm256_cvtph_ps(_mm_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7)));
}

// kRows rows of x, from `row` on, times 8 weight rows.
template <WeightType kType, std::size_t kRows>
void multiply_few(const ActivationView& x, std::size_t row, const std::byte* weights, std::size_t row_bytes, float* out,
                  std::size_t out_stride) {
  using F = Format<kType>;
  __m256 sums[kRows];
  POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) sums[r] = _mm256_setzero_ps();
  for (std::size_t b = 0; b < x.num_blocks; ++b) {
    prefetch(weights, kLanes * row_bytes, b * kLanes * F::kBlockBytes, kLanes * F::kBlockBytes);
    const std::byte* block = weights + b * F::kBlockBytes;
    __m256i products[kRows][kLanes];
    POLYKV_UNROLL for (std::size_t o = 0; o < kLanes; ++o) {
      const Codes<kType> codes(block + o * row_bytes);
      POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) {
        products[r][o] = codes.times(x.codes + ((row + r) * x.num_blocks + b) * 32);
      }
    }
    const __m256 scales = load_halves(block, row_bytes);
    const __m256 minima = F::kHasMinimum ? load_halves(block + 2, row_bytes) : _mm256_setzero_ps();
    POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) {
      const std::size_t at = (row + r) * x.num_blocks + b;
      const __m256 scale = _mm256_mul_ps(scales, _mm256_set1_ps(x.scales[at]));
      sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum_each(products[r])), scale, sums[r]);
      if constexpr (F::kHasMinimum) sums[r] = _mm256_fmadd_ps(minima, _mm256_set1_ps(x.block_sums[at]), sums[r]);
    }
  }
  POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) _mm256_storeu_ps(out + r * out_stride, sums[r]);
}

template <WeightType kType>
void multiply_few_rows(const ActivationView& x, std::size_t row, const std::byte* weights, std::size_t row_bytes,
                       float* out, std::size_t out_stride) {
  while (row < x.num_rows) {
    const std::size_t rows = std::min<std::size_t>(x.num_rows - row, 4);
    switch (rows) {
      case 1:
        multiply_few<kType, 1>(x, row, weights, row_bytes, out, out_stride);
        break;
      case 2:
        multiply_few<kType, 2>(x, row, weights, row_bytes, out, out_stride);
        break;
      case 3:
        multiply_few<kType, 3>(x, row, weights, row_bytes, out, out_stride);
        break;
      default:
        multiply_few<kType, 4>(x, row, weights, row_bytes, out, out_stride);
        break;
    }
    row += rows;
    out += rows * out_stride;
  }
}

// ---- many rows: 8 activation rows in the lanes ----

// A run of blocks of 8 weight rows, unpacked once for all tiles.
struct Unpacked {
  static constexpr std::size_t kBlocks = 16;
  alignas(32) int pairs[kBlocks][kLanes][16];  // codes as int16
  alignas(32) float scales[kBlocks][kLanes];
  alignas(32) float minima[kBlocks][kLanes];

  template <WeightType kType>
  void fill(const std::byte* weights, std::size_t row_bytes, std::size_t num_blocks) {
    using F = Format<kType>;
    for (std::size_t b = 0; b < num_blocks; ++b) {
      const std::byte* block = weights + b * F::kBlockBytes;
      _mm256_store_ps(scales[b], load_halves(block, row_bytes));
      if constexpr (F::kHasMinimum) _mm256_store_ps(minima[b], load_halves(block + 2, row_bytes));
      for (std::size_t o = 0; o < kLanes; ++o) {
        const Codes<kType> codes(block + o * row_bytes);
        _mm256_store_si256(reinterpret_cast<__m256i*>(pairs[b][o]), codes.first);
        _mm256_store_si256(reinterpret_cast<__m256i*>(pairs[b][o] + 8), codes.second);
      }
    }
  }
};

using TileSums = __m256[kLanes];  // [output], a lane for each row of the tile

template <WeightType kType>
void add_tile(const Unpacked& weights, const std::byte* tile, std::size_t num_blocks, TileSums& sums) {
  for (std::size_t b = 0; b < num_blocks; ++b, tile += kTileBlockBytes) {
    __m256i dots[kLanes];
    POLYKV_UNROLL for (std::size_t o = 0; o < kLanes; ++o) dots[o] = _mm256_setzero_si256();
    for (std::size_t pair = 0; pair < 16; ++pair) {
      const __m256i codes = load32(tile + pair * 32);
      POLYKV_UNROLL for (std::size_t o = 0; o < kLanes; ++o) {
        const __m256i product = _mm256_madd_epi16(codes, _mm256_set1_epi32(weights.pairs[b][o][pair]));
        dots[o] = _mm256_add_epi32(dots[o], product);
      }
    }
    const __m256 row_scales = _mm256_castsi256_ps(load32(tile + 512));
    const __m256 block_sums = _mm256_castsi256_ps(load32(tile + 544));
    POLYKV_UNROLL for (std::size_t o = 0; o < kLanes; ++o) {
      const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(weights.scales[b][o]), row_scales);
      __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[o]), scale, sums[o]);
      if constexpr (Format<kType>::kHasMinimum) {
        sum = _mm256_fmadd_ps(_mm256_set1_ps(weights.minima[b][o]), block_sums, sum);
      }
      sums[o] = sum;
    }
  }
}

// All tiles times 8 weight rows.
template <WeightType kType>
void multiply_tiles(const ActivationView& x, std::size_t num_tiles, const std::byte* weights, std::size_t row_bytes,
                    float* out, std::size_t out_stride) {
  using F = Format<kType>;
  TileSums sums[kMaxTiles];
  for (std::size_t t = 0; t < num_tiles; ++t) {
    for (__m256& sum : sums[t]) sum = _mm256_setzero_ps();
  }
  Unpacked unpacked;
  for (std::size_t b = 0; b < x.num_blocks; b += Unpacked::kBlocks) {
    const std::size_t num_blocks = std::min(Unpacked::kBlocks, x.num_blocks - b);
    prefetch(weights, kLanes * row_bytes, b * kLanes * F::kBlockBytes, num_blocks * kLanes * F::kBlockBytes);
    unpacked.fill<kType>(weights + b * F::kBlockBytes, row_bytes, num_blocks);
    for (std::size_t t = 0; t < num_tiles; ++t) {
      add_tile<kType>(unpacked, x.packed + (t * x.num_blocks + b) * kTileBlockBytes, num_blocks, sums[t]);
    }
  }
  for (std::size_t row = 0; row < std::min(x.num_rows, num_tiles * kLanes); ++row) {
    for (std::size_t o = 0; o < kLanes; ++o) {
      std::memcpy(out + row * out_stride + o, reinterpret_cast<const char*>(&sums[row / kLanes][o]) + row % kLanes * 4,
                  4);
    }
  }
}

template <WeightType kType>
void multiply_blocks(const ActivationView& x, const WeightMatrix& weights, std::size_t first_output,
                     std::size_t num_outputs, float* out, std::size_t out_stride) {
  if (num_outputs < kLanes) {  // too few to fill the lanes; the same bits
    kLinearScalar.multiply(x, weights, first_output, num_outputs, out, out_stride);
    return;
  }
  const std::size_t row_bytes = weight_row_bytes(kType, weights.num_cols);
  const std::size_t num_tiles = num_tiles_of(x.num_rows);
  const std::size_t row = num_tiles * kLanes;  // the first in no tile
  for (std::size_t o = 0; o < num_outputs; o += kLanes) {
    o = std::min(o, num_outputs - kLanes);  // the last 8 may overlap those before
    const std::byte* group = weights.data + (first_output + o) * row_bytes;
    if (num_tiles != 0) multiply_tiles<kType>(x, num_tiles, group, row_bytes, out + o, out_stride);
    if (row < x.num_rows) {
      multiply_few_rows<kType>(x, row, group, row_bytes, out + row * out_stride + o, out_stride);
    }
  }
}

// ---- float formats: 8 values in the lanes; lane i % 8 of a sum takes value i, in order ----

// Values i to i + 7 of a weight row that has at least so many.
template <WeightType kType>
__m256 load_floats(const std::byte* row, std::size_t i) {
  if constexpr (kType == WeightType::kF32) return _mm256_castsi256_ps(load32(row + 4 * i));
  if constexpr (kType == WeightType::kF16) return _mm256_cvtph_ps(load16(row + 2 * i));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(row + 2 * i)), 16));
}

// The last `left` < 8 of them, then zeros.
template <WeightType kType>
__m256 load_last_floats(const std::byte* row, std::size_t i, std::size_t left) {
  constexpr std::size_t kBytes = kType == WeightType::kF32 ? 4 : 2;
  alignas(32) std::byte padded[32] = {};
  std::memcpy(padded, row + kBytes * i, kBytes * left);
  return load_floats<kType>(padded, 0);
}

float sum_lanes(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <WeightType kType, std::size_t kRows, std::size_t kOutputs>
void multiply_floats(const ActivationView& x, std::size_t row, const std::byte* weights, std::size_t row_bytes,
                     float* out, std::size_t out_stride) {
  __m256 sums[kOutputs][kRows];
  POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) {
    POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) sums[o][r] = _mm256_setzero_ps();
  }
  constexpr std::size_t kStepBytes = kType == WeightType::kF32 ? 32 : 16;
  const std::size_t stride = x.num_blocks * 32;
  const float* values = x.values + row * stride;
  for (std::size_t i = 0; i < x.num_cols; i += kLanes) {
    prefetch(weights, kOutputs * row_bytes, i / kLanes * kOutputs * kStepBytes, kOutputs * kStepBytes);
    const std::size_t left = x.num_cols - i;
    POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) {
      const std::byte* at = weights + o * row_bytes;
      const __m256 weight = left >= kLanes ? load_floats<kType>(at, i) : load_last_floats<kType>(at, i, left);
      POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) {
        sums[o][r] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(values + r * stride + i), sums[o][r]);
      }
    }
  }
  POLYKV_UNROLL for (std::size_t o = 0; o < kOutputs; ++o) {
    POLYKV_UNROLL for (std::size_t r = 0; r < kRows; ++r) out[r * out_stride + o] = sum_lanes(sums[o][r]);
  }
}

template <WeightType kType, std::size_t kOutputs>
void multiply_float_rows(const ActivationView& x, const std::byte* weights, std::size_t row_bytes, float* out,
                         std::size_t out_stride) {
  std::size_t row = 0;
  for (; row + 2 <= x.num_rows; row += 2) {
    multiply_floats<kType, 2, kOutputs>(x, row, weights, row_bytes, out + row * out_stride, out_stride);
  }
  if (row < x.num_rows) {
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

const LinearKernels kLinearAvx2{packed_bytes, pack, multiply};

}  // namespace polykv::core

POLYKV_TARGET_END
#endif
