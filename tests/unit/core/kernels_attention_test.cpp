// Every table of attention kernels against the scalar one, bit for bit, on any bytes; and the scalar one against plain
// sums.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/attend_queries.h"
#include "core/float16.h"
#include "core/kernels/attention.h"
#include "core/kernels/kernels.h"
#include "core/tile_codes.h"
#include "core/trellis.h"
#include "format/page_layout.h"
#include "tests/support/catch.h"

namespace {

using namespace polykv;
using core::AttentionKernels;
using core::kScoreStride;

const AttentionKernels& scalar() { return *core::supported_kernels().back()->attention; }

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  float normal() { return normal_(engine_); }
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(engine_()) % n; }
  std::vector<std::byte> bytes(std::size_t count) {
    std::vector<std::byte> out(count);
    for (std::byte& byte : out) byte = static_cast<std::byte>(engine_() >> 13);
    return out;
  }
  std::vector<float> normals(std::size_t count) {
    std::vector<float> out(count);
    for (float& value : out) value = normal();
    return out;
  }
  // float16 numbers: around 1 (scales), or normal.
  std::vector<std::byte> float16(std::size_t count, bool scales) {
    std::vector<std::byte> out(count * 2);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint16_t half = core::float_to_float16(scales ? 1.0f + 0.2f * normal() : normal());
      std::memcpy(&out[2 * i], &half, 2);
    }
    return out;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// Equal bits; any two values that are not a number are equal.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::memcmp(&x, &y, sizeof x) == 0 || (std::isnan(x) && std::isnan(y));
  });
}

float half_at(const std::vector<std::byte>& bytes, std::size_t i) {
  std::uint16_t half;
  std::memcpy(&half, bytes.data() + 2 * i, 2);
  return core::float16_to_float(half);
}

// Scales of codes of `bits` bits around 1: bytes over exponent -3, or float16; and what one of them is.
constexpr int kExponent = -3;
std::vector<std::byte> random_scales(Random& random, std::size_t count, unsigned bits) {
  if (bits > 5) return random.float16(count, true);
  std::vector<std::byte> out(count);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random.below(8) == 0 ? 0 : 64 + random.below(64));
  return out;
}
double scale_of(const std::vector<std::byte>& scales, std::size_t i, unsigned bits) {
  return bits > 5 ? half_at(scales, i) : core::byte_to_scale(std::to_integer<std::uint8_t>(scales[i]), kExponent);
}

// The integers of a position's codes, dimension by dimension.
template <typename Slot>
std::vector<int> integers_of(unsigned bits, const std::vector<std::uint8_t>& codes, std::size_t num_dims,
                             const Slot& slot) {
  std::vector<int> out;
  unsigned window = 0;
  for (std::size_t d = 0; d < num_dims; ++d) {
    const unsigned code = codes[slot(d)];
    window = window << 1 | code >> (bits - 1);
    const unsigned rank = code & ((1u << (bits - 1)) - 1);
    out.push_back(core::codebook(bits).values[bits <= 5 ? core::trellis_subset(window) << (bits - 1) | rank : code]);
  }
  return out;
}

const std::size_t kHeadDims[] = {8, 24, 40, 64, 80, 96, 128, 256, 512};

struct Queries {
  core::IntegerQueries integers;
  std::vector<float> values, offsets;
  std::size_t num_vectors;
  Queries(Random& random, std::size_t num, std::size_t head_dim, std::size_t block_dim)
      : values(random.normals(num * head_dim)), offsets(random.normals(num)), num_vectors(num) {
    integers.resize(1, num, head_dim, block_dim);
    for (std::size_t v = 0; v < num; ++v) integers.assign(0, v, {values.data() + v * head_dim, head_dim});
  }
  core::CodeQueries view() const { return integers.view(0, 0, num_vectors, offsets.data()); }
};

}  // namespace

TEST_CASE("attention kernels: the tables that run here", "[kernels_attention]") {
  std::string names;
  for (const core::KernelTable* table : core::supported_kernels()) names += std::string(" ") + table->name;
  std::cout << "attention kernels compared with scalar:" << names << std::endl;
  CHECK(std::string(core::supported_kernels().back()->name) == "scalar");
}

TEST_CASE("attention kernels: query codes", "[kernels_attention]") {
  const float values[8] = {1.0f, -1.0f, 0.5f, 0.0f, 1e-9f, -0.25f, 0.00003f, 0.0078125f};
  core::IntegerQueries queries;
  queries.resize(1, 1, 8, 8);
  queries.assign(0, 0, values);
  const core::CodeQueries view = queries.view(0, 0, 1, nullptr);
  const int expected[8] = {16256, -16256, 8128, 0, 0, -4064, 0, 127};
  int sum = 0;
  for (int d = 0; d < 8; ++d) {
    const std::size_t four = static_cast<std::size_t>(d) / 4 * view.stride;
    const std::int8_t high = view.planes[four * 8 + d % 4], low = view.planes[four * 8 + 4 + d % 4];
    CHECK(view.codes[four * 4 + d % 2 * 2 + d % 4 / 2] == expected[d]);
    CHECK(128 * high + low == expected[d]);
    CHECK(low >= 0);
    sum += expected[d];
  }
  CHECK(view.biases[0] == -128 * sum);
  CHECK(view.scales[0] == 1.0f / 16256.0f);
  queries.assign(0, 0, std::vector<float>(8, 1e-38f));
  CHECK(queries.view(0, 0, 1, nullptr).scales[0] == 0.0f);
  CHECK(queries.view(0, 0, 1, nullptr).codes[3] == 0);
}

TEST_CASE("attention kernels: scores of codes", "[kernels_attention]") {
  Random random(1);
  for (const std::size_t head_dim : kHeadDims)
    for (unsigned bits = 1; bits <= 8; ++bits) {
      const std::size_t num_vectors = 1 + random.below(core::kMaxVectors), num_tiles = 1 + random.below(4);
      const std::size_t block_dim = bits == 8 ? 32 : head_dim, num_blocks = (head_dim + block_dim - 1) / block_dim;
      const Queries queries(random, num_vectors, head_dim, block_dim);
      const auto codes = random.bytes(num_tiles * head_dim * 2 * bits);
      const auto scales = random_scales(random, num_tiles * num_blocks * 16, bits);
      const core::KeyTiles tiles{scales.data(), codes.data(), num_tiles, head_dim, bits, kExponent};
      std::vector<float> expected(num_vectors * kScoreStride, -1.0f);
      scalar().score_codes(tiles, queries.view(), expected.data());
      for (const core::KernelTable* table : core::supported_kernels()) {
        INFO(table->name << " head_dim " << head_dim << " bits " << bits << " vectors " << num_vectors);
        std::vector<float> scores(num_vectors * kScoreStride, -1.0f);
        table->attention->score_codes(tiles, queries.view(), scores.data());
        CHECK(same_bits(scores, expected));
      }
      // Scalar against a plain double sum. Rounding: head_dim quantized query values (half a code each), and four
      // floats.
      std::vector<std::uint8_t> unpacked(head_dim * 16);
      const float step = bits == 8 ? 1.0f : core::codebook(bits).step;
      for (std::size_t v = 0; v < num_vectors; v += 5)
        for (std::size_t t = 0; t < num_tiles * 16; t += 3) {
          core::unpack_codes(static_cast<format::CodecId>(bits), codes.data() + t / 16 * head_dim * 2 * bits,
                             head_dim / 4, unpacked.data());
          const std::vector<int> integers =
              integers_of(bits, unpacked, head_dim, [&](std::size_t d) { return core::key_slot(t % 16, d); });
          double sum = 0, magnitude = 0, query_error = 0;
          for (std::size_t d = 0; d < head_dim; ++d) {
            const double key = static_cast<double>(integers[d]) * step *
                               scale_of(scales, (t / 16 * num_blocks + d / block_dim) * 16 + t % 16, bits);
            sum += key * queries.values[v * head_dim + d];
            magnitude += std::fabs(key * queries.values[v * head_dim + d]);
            query_error += std::fabs(key) * queries.view().scales[v] * 0.5;
          }
          const double got = expected[v * kScoreStride + t] - static_cast<double>(queries.offsets[v]);
          const double bound = query_error * 1.001 + magnitude * static_cast<double>(num_blocks + 4) * 0x1p-23 + 2e-6;
          REQUIRE(std::fabs(got - sum) <= bound);
        }
    }
}

TEST_CASE("attention kernels: scores of float16 keys", "[kernels_attention]") {
  Random random(2);
  for (const std::size_t head_dim : kHeadDims)
    for (const std::size_t num_vectors : {1u, 2u, 3u, 5u, 10u, 45u}) {
      const std::size_t num_tiles = 1 + random.below(4);
      const auto keys = random.float16(num_tiles * head_dim * 16, false);
      const auto queries = random.normals(num_vectors * head_dim);
      const core::KeyTiles tiles{nullptr, keys.data(), num_tiles, head_dim, 0};
      std::vector<float> expected(num_vectors * kScoreStride, -1.0f);
      scalar().score_float16(tiles, queries.data(), num_vectors, expected.data());
      for (const core::KernelTable* table : core::supported_kernels()) {
        INFO(table->name << " head_dim " << head_dim << " vectors " << num_vectors);
        std::vector<float> scores(num_vectors * kScoreStride, -1.0f);
        table->attention->score_float16(tiles, queries.data(), num_vectors, scores.data());
        CHECK(same_bits(scores, expected));
      }
      double sum = 0, magnitude = 0;  // the last vector's last position; head_dim roundings
      for (std::size_t d = 0; d < head_dim; ++d) {
        const double product = static_cast<double>(half_at(keys, ((num_tiles - 1) * head_dim + d) * 16 + 15)) *
                               queries[(num_vectors - 1) * head_dim + d];
        sum += product;
        magnitude += std::fabs(product);
      }
      CHECK(std::fabs(expected[(num_vectors - 1) * kScoreStride + num_tiles * 16 - 1] - sum) <=
            magnitude * static_cast<double>(head_dim) * 0x1p-24);
    }
}

TEST_CASE("attention kernels: exp", "[kernels_attention]") {
  CHECK(core::exp_nonpositive(0.0f) == 1.0f);
  CHECK(core::exp_nonpositive(-80.0001f) == 0.0f);
  CHECK(core::exp_nonpositive(-std::numeric_limits<float>::infinity()) == 0.0f);
  CHECK(core::exp_nonpositive(std::numeric_limits<float>::quiet_NaN()) == 0.0f);
  double worst = 0;
  for (float x = 0.0f; x >= -80.0f; x -= 0.0007f) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(core::exp_nonpositive(x) - exact) / exact - 3e-9 * std::fabs(x));
  }
  // ln 2 as a float is off by 1.9e-9 for each of 1.44 |x|: 2.8e-9 |x|. Then the polynomial's 1.05e-7, the rounding of f
  // (1.5e-8), and the last two of the polynomial (6e-8, 2e-8).
  CHECK(worst < 2.2e-7);
}

TEST_CASE("attention kernels: softmax", "[kernels_attention]") {
  Random random(3);
  for (int round = 0; round < 300; ++round) {
    const std::size_t num_slots = 16 * (1 + random.below(32));
    const std::size_t begin = random.below(static_cast<std::uint32_t>(num_slots));
    const std::size_t end = begin + 1 + random.below(static_cast<std::uint32_t>(num_slots - begin));
    std::vector<float> scores = random.normals(kScoreStride);
    for (float& score : scores) score *= 8.0f;
    if (round % 3 == 0)
      for (const float odd : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::infinity(), 3e38f, -3e38f})
        if (round % 9 != 0 || !(odd > 1e38f)) scores[random.below(static_cast<std::uint32_t>(num_slots))] = odd;
    std::vector<float> expected = scores;
    const core::SoftmaxSum sum = scalar().softmax(expected.data(), begin, end, num_slots);
    double total = 0;
    for (std::size_t t = 0; t < num_slots; ++t) {
      if (t < begin || t >= end) REQUIRE(expected[t] == 0.0f);
      total += expected[t];
    }
    REQUIRE(std::fabs(sum.sum - total) <= total * 36 * 0x1p-24);  // 32 additions a lane, 4 between them
    for (const core::KernelTable* table : core::supported_kernels()) {
      INFO(table->name << " slots " << begin << " to " << end << " of " << num_slots);
      std::vector<float> weights = scores;
      const core::SoftmaxSum got = table->attention->softmax(weights.data(), begin, end, num_slots);
      CHECK(same_bits(weights, expected));
      CHECK(got.max == sum.max);
      CHECK(got.sum == sum.sum);
    }
  }
}

TEST_CASE("attention kernels: values of codes", "[kernels_attention]") {
  Random random(4);
  for (const std::size_t head_dim : kHeadDims)
    for (unsigned bits = 1; bits <= 8; ++bits) {
      const std::size_t padded_dim = format::padded_value_dim(head_dim);
      const std::size_t num_vectors = 1 + random.below(core::kMaxVectors), num_tiles = 1 + random.below(4);
      const auto codes = random.bytes(num_tiles * padded_dim * 2 * bits);
      const auto scales = random_scales(random, num_tiles * 16, bits);
      std::vector<float> weights(num_vectors * kScoreStride, 0.0f);
      for (float& weight : weights) weight = random.below(4) == 0 ? 0.0f : std::exp(3.0f * random.normal());
      for (std::size_t t = 0; t < 16; ++t) weights[t] = 0.0f;  // a tile that the first vector does not see
      const core::ValueTiles tiles{scales.data(), codes.data(), num_tiles, padded_dim, bits, kExponent};
      const std::vector<float> before = random.normals(num_vectors * padded_dim);
      std::vector<float> expected = before;
      scalar().add_codes(tiles, weights.data(), num_vectors, expected.data());
      for (const core::KernelTable* table : core::supported_kernels()) {
        INFO(table->name << " head_dim " << head_dim << " bits " << bits << " vectors " << num_vectors);
        std::vector<float> out = before;
        table->attention->add_codes(tiles, weights.data(), num_vectors, out.data());
        CHECK(same_bits(out, expected));
      }
      // Scalar against a plain double sum: half a step of 1/255 of the tile's top for each of 16 weights, and the
      // floats.
      std::vector<std::uint8_t> unpacked(padded_dim * 16);
      const std::size_t v = num_vectors - 1;
      for (std::size_t d = 0; d < padded_dim; d += 7) {
        double sum = before[v * padded_dim + d], magnitude = std::fabs(sum), weight_error = 0;
        for (std::size_t tile = 0; tile < num_tiles; ++tile) {
          core::unpack_codes(static_cast<format::CodecId>(bits), codes.data() + tile * padded_dim * 2 * bits,
                             padded_dim / 4, unpacked.data());
          double top = 0, integers = 0;
          for (std::size_t t = 0; t < 16; ++t) {
            const double x =
                static_cast<double>(weights[v * kScoreStride + tile * 16 + t]) * scale_of(scales, tile * 16 + t, bits);
            const auto slot = [&](std::size_t dim) { return core::value_slot(t, dim, padded_dim); };
            const double value =
                integers_of(bits, unpacked, d + 1, slot)[d] * static_cast<double>(core::codebook(bits).step);
            sum += x * value;
            magnitude += std::fabs(x * value);
            top = std::max(top, x);
            integers += std::fabs(value);
          }
          weight_error += integers * top * 0.5 / 255;
        }
        REQUIRE(std::fabs(expected[v * padded_dim + d] - sum) <= weight_error * 1.001 + magnitude * 8 * 0x1p-23);
      }
    }
}

TEST_CASE("attention kernels: values in float16, merging, dot product", "[kernels_attention]") {
  Random random(5);
  for (const std::size_t head_dim : kHeadDims)
    for (const std::size_t num_vectors : {1u, 3u, 4u, 7u, 48u}) {
      const std::size_t padded_dim = format::padded_value_dim(head_dim), num_tiles = 1 + random.below(4);
      const auto values = random.float16(num_tiles * 16 * padded_dim, false);
      std::vector<float> weights = random.normals(num_vectors * kScoreStride);
      const core::ValueTiles tiles{nullptr, values.data(), num_tiles, padded_dim, 0};
      const std::vector<float> before = random.normals(num_vectors * padded_dim);
      const std::vector<float> query = random.normals(head_dim);
      std::vector<float> expected = before, expected_merge = before;
      scalar().add_float16(tiles, weights.data(), num_vectors, expected.data());
      scalar().merge(expected_merge.data(), 0.3f, expected.data(), 0.7f, expected.size());
      const float expected_dot = scalar().dot_float16(query.data(), values.data(), head_dim);
      for (const core::KernelTable* table : core::supported_kernels()) {
        INFO(table->name << " head_dim " << head_dim << " vectors " << num_vectors);
        std::vector<float> out = before, merged = before;
        table->attention->add_float16(tiles, weights.data(), num_vectors, out.data());
        CHECK(same_bits(out, expected));
        table->attention->merge(merged.data(), 0.3f, expected.data(), 0.7f, expected.size());
        CHECK(same_bits(merged, expected_merge));
        CHECK(table->attention->dot_float16(query.data(), values.data(), head_dim) == expected_dot);
      }
      double sum = before.back(), dot = 0, magnitude = std::fabs(sum), dot_magnitude = 0;
      for (std::size_t t = 0; t < num_tiles * 16; ++t) {
        const double product = static_cast<double>(weights[(num_vectors - 1) * kScoreStride + t]) *
                               half_at(values, t * padded_dim + padded_dim - 1);
        sum += product;
        magnitude += std::fabs(product);
      }
      CHECK(std::fabs(expected.back() - sum) <= magnitude * static_cast<double>(num_tiles * 16) * 0x1p-24);
      for (std::size_t d = 0; d < head_dim; ++d) {
        dot += static_cast<double>(query[d]) * half_at(values, d);
        dot_magnitude += std::fabs(static_cast<double>(query[d]) * half_at(values, d));
      }
      CHECK(std::fabs(expected_dot - dot) <= dot_magnitude * static_cast<double>(head_dim / 16 + 5) * 0x1p-24);
    }
}

// Codes and scales of a damaged file: nothing crashes (the sanitizers see it), and all tables still agree.
TEST_CASE("attention kernels: any bytes", "[kernels_attention]") {
  Random random(6);
  for (int round = 0; round < 60; ++round) {
    const std::size_t head_dim = kHeadDims[random.below(std::size(kHeadDims))], num_vectors = 1 + random.below(7);
    const std::size_t padded_dim = format::padded_value_dim(head_dim), num_blocks = (head_dim + 31) / 32;
    const unsigned bits = 1 + random.below(8);
    const Queries queries(random, num_vectors, head_dim, bits == 8 ? 32 : head_dim);
    const auto codes = random.bytes(4 * padded_dim * 2 * bits), halves = random.bytes(64 * padded_dim * 2);
    const auto scales = random.bytes(4 * num_blocks * 16 * 2);  // a sixteenth of them infinite or not a number
    const int exponent = static_cast<int>(random.below(128)) - 64;
    const core::KeyTiles keys{scales.data(), codes.data(), 4, head_dim, bits, exponent};
    const core::KeyTiles half_keys{nullptr, halves.data(), 4, head_dim, 0};
    const core::ValueTiles values{scales.data(), codes.data(), 4, padded_dim, bits, exponent};
    const core::ValueTiles half_values{nullptr, halves.data(), 4, padded_dim, 0};
    std::vector<std::vector<float>> expected;
    const auto attention_kernels = core::supported_kernels();
    for (auto table = attention_kernels.rbegin(); table != attention_kernels.rend(); ++table) {
      INFO((*table)->name << " head_dim " << head_dim << " bits " << bits);
      const AttentionKernels& kernels = *(*table)->attention;
      std::vector<float> scores(num_vectors * kScoreStride), half_scores(num_vectors * kScoreStride);
      std::vector<float> out(num_vectors * padded_dim), half_out(num_vectors * padded_dim);
      kernels.score_codes(keys, queries.view(), scores.data());
      kernels.score_float16(half_keys, queries.values.data(), num_vectors, half_scores.data());
      const auto raw_scores = scores;
      for (std::size_t v = 0; v < num_vectors; ++v) kernels.softmax(scores.data() + v * kScoreStride, 3, 61, 64);
      for (const float weight : scores) CHECK((weight >= 0.0f && weight <= 1.0f));
      kernels.add_codes(values, scores.data(), num_vectors, out.data());
      kernels.add_float16(half_values, scores.data(), num_vectors, half_out.data());
      for (const float value : out) CHECK(std::isfinite(value));  // tiles with odd scales are left out
      const std::vector<std::vector<float>> got{raw_scores, half_scores, scores, out, half_out};
      if (expected.empty()) expected = got;
      for (std::size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], expected[i]));
    }
  }
}
