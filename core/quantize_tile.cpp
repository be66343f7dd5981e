#include "core/quantize_tile.h"

#include <array>
#include <cmath>
#include <cstring>
#include <span>

#include "core/codebook.h"
#include "core/float16.h"
#include "core/rotation.h"
#include "core/trellis.h"

namespace polykv::core {
namespace {

using Lanes = std::array<float, kTileLanes>;

// Nearest centroid by look-up. Boundaries between integers of a codebook are halves, so floor(2 u) decides, u in units
// of the codebook's integers; a value on a boundary takes the greater centroid.
struct NearestTable {
  static constexpr int kLowest = -256, kHighest = 255;      // of floor(2 u), clamped; all centroids are within +-127
  std::array<std::uint32_t, kHighest - kLowest + 1> entry;  // code in bits 0-7, the square of its integer above
};

NearestTable make_nearest_table(unsigned bits) {
  const Codebook& book = codebook(bits);
  const auto code_at = [&](unsigned rank) {  // the code of the rank-th centroid, ascending
    return bits == 8 ? (rank + 129) % 256 : rank;
  };
  const unsigned num_centroids = bits == 8 ? 255 : 1u << bits;
  NearestTable table{};
  unsigned rank = 0;
  for (int doubled = NearestTable::kLowest; doubled <= NearestTable::kHighest; ++doubled) {
    while (rank + 1 < num_centroids && doubled >= book.values[code_at(rank)] + book.values[code_at(rank + 1)]) ++rank;
    const unsigned code = code_at(rank);
    const auto square = static_cast<unsigned>(book.values[code] * book.values[code]);
    table.entry[static_cast<std::size_t>(doubled - NearestTable::kLowest)] = code | square << 8;
  }
  return table;
}

const NearestTable& nearest_table(unsigned bits) {
  static const std::array<NearestTable, 3> tables{make_nearest_table(6), make_nearest_table(7), make_nearest_table(8)};
  return tables[bits - 6];
}

// Sum of squares of each vector: 16 partial sums by dim % 16, then halves onto halves.
Lanes sum_of_squares(const float* tile, std::size_t head_dim) {
  std::array<Lanes, 16> partial{};
  for (std::size_t d = 0; d < head_dim; ++d) {
    Lanes& sum = partial[d % 16];
    for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
      const float value = tile[d * kTileLanes + lane];
      sum[lane] += value * value;
    }
  }
  for (std::size_t half = 8; half > 0; half /= 2)
    for (std::size_t i = 0; i < half; ++i)
      for (std::size_t lane = 0; lane < kTileLanes; ++lane) partial[i][lane] += partial[i + half][lane];
  return partial[0];
}

// Vectors of the compiler's own: left to itself, gcc 12 makes branches of the clamp (2.4 times the time at 1 bit).
using Float4 = float __attribute__((vector_size(16)));
using Int4 = std::int32_t __attribute__((vector_size(16)));

// floor(2 * values * inverse), clamped to what NearestTable has, as an index into it.
Int4 nearest_index(const float* values, const float* inverse) {
  Float4 doubled, factor;
  std::memcpy(&doubled, values, sizeof doubled);
  std::memcpy(&factor, inverse, sizeof factor);
  doubled = doubled * factor * 2.0f;
  const Float4 lowest = Float4{} + NearestTable::kLowest, highest = Float4{} + NearestTable::kHighest;
  doubled = doubled < lowest ? lowest : doubled;
  doubled = doubled > highest ? highest : doubled;
  const Int4 truncated = __builtin_convertvector(doubled, Int4);
  const Int4 is_above = __builtin_convertvector(truncated, Float4) > doubled;  // -1 where truncating went up
  return truncated + is_above - NearestTable::kLowest;
}

// The codes of one dimension's 16 values, and their squares added to `squares`.
void nearest_codes(const float* values, const Lanes& inverse, const NearestTable& table, std::uint8_t* codes,
                   std::array<std::uint32_t, kTileLanes>& squares) {
  for (std::size_t lane = 0; lane < kTileLanes; lane += 4) {
    const Int4 index = nearest_index(values + lane, inverse.data() + lane);
    for (std::size_t i = 0; i < 4; ++i) {
      const std::uint32_t entry = table.entry[static_cast<std::size_t>(index[i])];
      codes[lane + i] = static_cast<std::uint8_t>(entry);
      squares[lane + i] += entry >> 8;
    }
  }
}

}  // namespace

void quantize_rotated_tile(unsigned bits, float* tile, std::size_t head_dim, std::uint8_t* codes,
                           std::uint16_t* scales) {
  rotate_16(std::span(tile, head_dim * kTileLanes));
  const float step = codebook(bits).step;
  const Lanes sums = sum_of_squares(tile, head_dim);
  Lanes inverse;
  for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
    const float rms = std::sqrt(sums[lane] / static_cast<float>(head_dim));
    inverse[lane] = sums[lane] > 0.0f ? 1.0f / (rms * step) : 0.0f;
  }

  const NearestTable& table = nearest_table(bits);
  std::array<std::uint32_t, kTileLanes> squares{};  // of integers: exact, at most 512 * 127^2
  for (std::size_t d = 0; d < head_dim; ++d)
    nearest_codes(tile + d * kTileLanes, inverse, table, codes + d * kTileLanes, squares);

  // The norm correction: the stored scale gives back |y|, whatever rounding to centroids did to it.
  bool any_zero = false;
  std::array<std::uint8_t, kTileLanes> keep;
  for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
    const bool zero = !(sums[lane] > 0.0f);
    scales[lane] = zero ? 0 : float_to_float16(std::sqrt(sums[lane] / static_cast<float>(squares[lane])) / step);
    keep[lane] = scales[lane] == 0 ? 0x00 : 0xff;
    any_zero |= scales[lane] == 0;
  }
  if (!any_zero) return;
  for (std::size_t d = 0; d < head_dim; ++d)
    for (std::size_t lane = 0; lane < kTileLanes; ++lane) codes[d * kTileLanes + lane] &= keep[lane];
}

void quantize_q8_tile(const float* tile, std::size_t head_dim, std::uint8_t* codes, std::uint16_t* scales) {
  for (std::size_t begin = 0; begin < head_dim; begin += 32, scales += kTileLanes) {
    const std::size_t end = begin + 32 < head_dim ? begin + 32 : head_dim;
    Lanes largest{};
    for (std::size_t d = begin; d < end; ++d) {
      for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
        const float magnitude = std::fabs(tile[d * kTileLanes + lane]);
        largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];
      }
    }
    // Divided by the scale as stored: the reader never sees another. A zero scale leaves only zero codes.
    Lanes divisor, limit;
    for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
      scales[lane] = float_to_float16(largest[lane] / 127.0f);
      divisor[lane] = scales[lane] == 0 ? 1.0f : float16_to_float(scales[lane]);
      limit[lane] = scales[lane] == 0 ? 0.0f : 127.0f;
    }
    for (std::size_t d = begin; d < end; ++d) {
      for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
        // Adding 1.5 * 2^23 rounds to an integer, ties to even: quotients are far below 2^22.
        float rounded = tile[d * kTileLanes + lane] / divisor[lane] + 0x1.8p23f - 0x1.8p23f;
        rounded = rounded > limit[lane] ? limit[lane] : rounded;
        rounded = rounded < -limit[lane] ? -limit[lane] : rounded;
        codes[d * kTileLanes + lane] = static_cast<std::uint8_t>(static_cast<std::int32_t>(rounded));
      }
    }
  }
}

void dequantize_rotated_tile(unsigned bits, const std::uint8_t* codes, const float* scales, std::size_t head_dim,
                             float* tile) {
  const Codebook& book = codebook(bits);
  const bool is_trellis = format::is_trellis_codec(static_cast<format::CodecId>(bits));
  for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
    const float factor = scales[lane] * book.step;
    unsigned window = 0;
    for (std::size_t d = 0; d < head_dim; ++d) {
      unsigned index = codes[d * kTileLanes + lane];
      if (is_trellis) {  // the subset in place of the trellis bit
        window = window << 1 | index >> (bits - 1);
        index = trellis_subset(window) << (bits - 1) | (index & ((1u << (bits - 1)) - 1));
      }
      tile[d * kTileLanes + lane] = factor * book.values[index];
    }
  }
  unrotate_16(std::span(tile, head_dim * kTileLanes));
}

void dequantize_q8_tile(const std::uint8_t* codes, const float* scales, std::size_t head_dim, float* tile) {
  for (std::size_t d = 0; d < head_dim; ++d)
    for (std::size_t lane = 0; lane < kTileLanes; ++lane)
      tile[d * kTileLanes + lane] = scales[d / 32 * kTileLanes + lane] *
                                    static_cast<float>(static_cast<std::int8_t>(codes[d * kTileLanes + lane]));
}

}  // namespace polykv::core
