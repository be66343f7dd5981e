// The reference: what attention.h says, in C++. std::fma is one rounding everywhere, in hardware or not.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "core/codebook.h"
#include "core/float16.h"
#include "core/kernels/attention.h"
#include "core/trellis.h"

namespace polykv::core {

float exp_nonpositive(float x) {
  using namespace exponential;
  if (x == 0.0f)
    return 1.0f;  // what follows gives that too; of two partials that are merged one has the larger maximum
  if (!(x >= kLowest)) return 0.0f;
  const float rounded = std::fma(x, kLog2E, kRound);
  const float n = rounded - kRound;
  const float f = std::fma(n, -kLn2, x);
  float p = std::fma(f, kC5, kC4);
  p = std::fma(p, f, kC3);
  p = std::fma(p, f, kC2);
  p = std::fma(p, f, 1.0f);
  p = std::fma(p, f, 1.0f);
  // p is in [0.7, 1.42], n in [-116, 0]: adding n to the exponent multiplies by 2^n.
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + (std::bit_cast<std::uint32_t>(rounded) << 23));
}

namespace {

constexpr std::size_t kTile = 16;
constexpr std::size_t kGroup = 64;  // codes

std::uint8_t byte_at(const std::byte* bytes, std::size_t i) { return std::to_integer<std::uint8_t>(bytes[i]); }

float float16_at(const std::byte* bytes, std::size_t i) {
  return float16_to_float(
      static_cast<std::uint16_t>(byte_at(bytes, 2 * i) | (unsigned{byte_at(bytes, 2 * i + 1)} << 8)));
}

// Scale number `i` of rows of 16: bytes of trellis codes, or float16.
float scale_at(const std::byte* scales, std::size_t i, unsigned bits, int exponent) {
  return bits <= 5 ? byte_to_scale(byte_at(scales, i), exponent) : float16_at(scales, i);
}

// Code `e` of group `group`, from the planes of a tile of `num_groups` groups; of trellis codes without the trellis
// bit, whose plane is the last.
unsigned code_at(const std::byte* tile, unsigned bits, std::size_t num_groups, std::size_t group, std::size_t e) {
  if (bits == 8) return byte_at(tile, group * kGroup + e);
  unsigned code = 0, shift = 0;
  if (bits & 4) {
    code = (byte_at(tile, group * 32 + e % 32) >> (e / 32 * 4)) & 15u;
    tile += num_groups * 32;
    shift = 4;
  }
  if (bits & 2) {
    code |= ((byte_at(tile, group * 16 + e % 16) >> (e / 16 * 2)) & 3u) << shift;
    tile += num_groups * 16;
    shift += 2;
  }
  if (bits & 1) code |= ((byte_at(tile, group * 8 + e / 8) >> (e % 8)) & 1u) << shift;
  return code;
}

// Group and place in it of a code: spec/codecs.md, "Tiles".
struct Place {
  std::size_t group, e;
};
Place place_of(bool is_key, std::size_t num_groups, std::size_t position, std::size_t d) {
  if (is_key) return {d / 4, position * 4 + d % 4};
  return {position / 4 * (num_groups / 4) + d / kTile, d % kTile * 4 + position % 4};
}

void expand_trellis(const std::byte* tile, unsigned bits, bool is_key, std::size_t num_groups, std::int8_t* out) {
  const std::byte* trellis_bits = tile + num_groups * (bits - 1) * 8;
  for (std::size_t position = 0; position < kTile; ++position) {
    unsigned window = 0;
    for (std::size_t d = 0; d < num_groups * 4; ++d) {
      const auto [group, e] = place_of(is_key, num_groups, position, d);
      window = window << 1 | code_at(trellis_bits, 1, num_groups, group, e);
      const unsigned rank = code_at(tile, bits - 1, num_groups, group, e);
      out[group * kGroup + e] = codebook(bits).values[trellis_subset(window) << (bits - 1) | rank];
    }
  }
}

// The integers of a tile of codes, [num_groups][64].
void expand(const std::byte* tile, unsigned bits, bool is_key, std::size_t num_groups, std::int8_t* out) {
  if (bits <= 5) return expand_trellis(tile, bits, is_key, num_groups, out);
  const std::int8_t* book = codebook(bits).values;
  for (std::size_t group = 0; group < num_groups; ++group)
    for (std::size_t e = 0; e < kGroup; ++e) {
      const unsigned code = code_at(tile, bits, num_groups, group, e);
      // 8 bits: the byte itself, in two's complement, for keys (k8) and values alike.
      out[group * kGroup + e] = bits == 8 ? static_cast<std::int8_t>(code) : book[code];
    }
}

// Adds lanes 8 apart, then 4, 2 and 1.
float sum_lanes(std::array<float, kTile> lanes) {
  for (std::size_t span = kTile / 2; span > 0; span /= 2)
    for (std::size_t i = 0; i < span; ++i) lanes[i] += lanes[i + span];
  return lanes[0];
}

void score_codes(const KeyTiles& tiles, const CodeQueries& queries, float* scores) {
  std::int8_t keys[kTile * 512];
  const std::size_t block_dim = tiles.bits == 8 ? 32 : tiles.head_dim;
  const std::size_t num_blocks = (tiles.head_dim + block_dim - 1) / block_dim;
  const float step = tiles.bits == 8 ? 1.0f : codebook(tiles.bits).step;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    expand(tiles.codes + tile * tiles.head_dim * 2 * tiles.bits, tiles.bits, true, tiles.head_dim / 4, keys);
    for (std::size_t v = 0; v < queries.num_vectors; ++v)
      for (std::size_t t = 0; t < kTile; ++t) {
        float sum = -0.0f;  // adding to it changes nothing, not even the sign of a zero
        for (std::size_t block = 0; block < num_blocks; ++block) {
          std::int32_t total = 0;
          const std::size_t end = std::min(tiles.head_dim, (block + 1) * block_dim);
          for (std::size_t d = block * block_dim; d < end; ++d) {
            const std::int8_t* planes = queries.planes + (d / 4 * queries.stride + v) * 8 + d % 4;
            total += (128 * planes[0] + planes[4]) * keys[d / 4 * kGroup + t * 4 + d % 4];
          }
          const std::size_t scale = (tile * num_blocks + block) * kTile + t;
          sum += static_cast<float>(total) * scale_at(tiles.scales, scale, tiles.bits, tiles.exponent);
        }
        scores[v * kScoreStride + tile * kTile + t] = sum * (queries.scales[v] * step) + queries.offsets[v];
      }
  }
}

void score_float16(const KeyTiles& tiles, const float* queries, std::size_t num_vectors, float* scores) {
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile)
    for (std::size_t v = 0; v < num_vectors; ++v)
      for (std::size_t t = 0; t < kTile; ++t) {
        float sum = 0.0f;
        for (std::size_t d = 0; d < tiles.head_dim; ++d)
          sum = std::fma(float16_at(tiles.codes, (tile * tiles.head_dim + d) * kTile + t),
                         queries[v * tiles.head_dim + d], sum);
        scores[v * kScoreStride + tile * kTile + t] = sum;
      }
}

SoftmaxSum softmax(float* scores, std::size_t begin, std::size_t end, std::size_t num_slots) {
  float max = -std::numeric_limits<float>::infinity();
  for (std::size_t t = begin; t < end; ++t) max = scores[t] > max ? scores[t] : max;
  std::array<float, kTile> lanes{};
  for (std::size_t t = 0; t < num_slots; ++t) {
    scores[t] = t >= begin && t < end ? exp_nonpositive(scores[t] - max) : 0.0f;
    lanes[t % kTile] += scores[t];
  }
  return {max, sum_lanes(lanes)};
}

// The u8 weights of one tile, and the factor of their sums; 0 if the tile is skipped.
float quantize_weights(const float* weights, const ValueTiles& tiles, std::size_t tile, float step, std::uint8_t* out) {
  float x[kTile], top = 0.0f;
  for (std::size_t t = 0; t < kTile; ++t) {
    const float scale = scale_at(tiles.scales, tile * kTile + t, tiles.bits, tiles.exponent);
    x[t] = weights[t] * (scale > 0.0f && scale <= std::numeric_limits<float>::max() ? scale : 0.0f);
    top = std::max(top, x[t]);
  }
  if (!(top > kLeastTop)) return 0.0f;
  const float inverse = 255.0f / top;  // x * inverse is at most 255 but for one rounding
  for (std::size_t t = 0; t < kTile; ++t) out[t] = static_cast<std::uint8_t>(std::nearbyint(x[t] * inverse));
  return top * kOver255 * step;
}

void add_codes(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out) {
  std::int8_t values[kTile * 512];
  const float step = codebook(tiles.bits).step;
  const std::size_t num_blocks = tiles.padded_dim / kTile;
  for (std::size_t tile = 0; tile < tiles.num_tiles; ++tile) {
    expand(tiles.codes + tile * tiles.padded_dim * 2 * tiles.bits, tiles.bits, false, tiles.padded_dim / 4, values);
    for (std::size_t v = 0; v < num_vectors; ++v) {
      std::uint8_t u8[kTile];
      const float factor = quantize_weights(weights + v * kScoreStride + tile * kTile, tiles, tile, step, u8);
      if (factor == 0.0f) continue;
      for (std::size_t d = 0; d < tiles.padded_dim; ++d) {
        std::int32_t total = 0;
        for (std::size_t t = 0; t < kTile; ++t)
          total += u8[t] * values[(t / 4 * num_blocks + d / kTile) * kGroup + d % kTile * 4 + t % 4];
        float& sum = out[v * tiles.padded_dim + d];
        sum = std::fma(static_cast<float>(total), factor, sum);
      }
    }
  }
}

void add_float16(const ValueTiles& tiles, const float* weights, std::size_t num_vectors, float* out) {
  for (std::size_t v = 0; v < num_vectors; ++v)
    for (std::size_t t = 0; t < tiles.num_tiles * kTile; ++t)
      for (std::size_t d = 0; d < tiles.padded_dim; ++d) {
        float& sum = out[v * tiles.padded_dim + d];
        sum = std::fma(weights[v * kScoreStride + t], float16_at(tiles.codes, t * tiles.padded_dim + d), sum);
      }
}

void merge(float* out, float out_factor, const float* partial, float partial_factor, std::size_t num_values) {
  for (std::size_t i = 0; i < num_values; ++i) out[i] = std::fma(partial[i], partial_factor, out[i] * out_factor);
}

float dot_float16(const float* query, const std::byte* vector, std::size_t head_dim) {
  std::array<float, kTile> lanes{};
  for (std::size_t d = 0; d < head_dim; ++d)
    lanes[d % kTile] = std::fma(query[d], float16_at(vector, d), lanes[d % kTile]);
  return sum_lanes(lanes);
}

}  // namespace

extern const AttentionKernels kAttentionScalar;
const AttentionKernels kAttentionScalar{score_codes, score_float16, softmax,    add_codes,
                                        add_float16, merge,         dot_float16};

}  // namespace polykv::core
