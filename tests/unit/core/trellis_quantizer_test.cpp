// The trellis quantizer: the same bits from every kernel table, the least error there is, the scale that is asked for.
#include "core/kernels/trellis_quantizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/codebook.h"
#include "core/kernels/kernels.h"
#include "core/trellis.h"
#include "tests/support/catch.h"

namespace {

using namespace polykv;
using core::ScaleRule;

constexpr std::size_t kLanes = 16;

struct Quantized {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
  bool operator==(const Quantized&) const = default;
};

Quantized quantize(const core::KernelTable& table, unsigned bits, ScaleRule rule, const std::vector<float>& tile) {
  Quantized out{std::vector<std::uint8_t>(tile.size(), 0xaa), std::vector<float>(kLanes, -1.0f)};
  table.trellis->quantize(bits, rule, tile.data(), tile.size() / kLanes, out.codes.data(), out.scales.data());
  return out;
}

// [head_dim][16], normal, each lane with a factor of its own; lane 5 is zero, lane 6 has one dimension.
std::vector<float> random_tile(std::size_t head_dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> tile(head_dim * kLanes);
  for (std::size_t d = 0; d < head_dim; ++d)
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      tile[d * kLanes + lane] = std::ldexp(normal(random), static_cast<int>(lane) * 3 - 24);
  for (std::size_t d = 0; d < head_dim; ++d) {
    tile[d * kLanes + 5] = 0.0f;
    if (d != head_dim / 2) tile[d * kLanes + 6] = 0.0f;
  }
  return tile;
}

// What the codes of a lane stand for, in units of the alphabet.
std::vector<double> integers_of(unsigned bits, const std::vector<std::uint8_t>& codes, std::size_t lane) {
  std::vector<double> out;
  unsigned window = 0;
  for (std::size_t i = lane; i < codes.size(); i += kLanes) {
    window = window << 1 | codes[i] >> (bits - 1);
    const unsigned rank = codes[i] & ((1u << (bits - 1)) - 1);
    out.push_back(core::codebook(bits).values[core::trellis_subset(window) << (bits - 1) | rank]);
  }
  return out;
}

std::vector<double> lane_of(const std::vector<float>& tile, std::size_t lane) {
  std::vector<double> out;
  for (std::size_t i = lane; i < tile.size(); i += kLanes) out.push_back(tile[i]);
  return out;
}

double product(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// The vector in units of the alphabet's integers.
std::vector<double> in_units(std::vector<double> y, unsigned bits) {
  const double rms = std::sqrt(product(y, y) / static_cast<double>(y.size()));
  for (double& value : y) value /= rms * static_cast<double>(core::codebook(bits).step);
  return y;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

// The least distance of all sequences of codes: what a trellis bit leaves open is decided best at once.
double least_distance(unsigned bits, const std::vector<double>& u) {
  double least = std::numeric_limits<double>::infinity();
  for (std::uint64_t trellis_bits = 0; trellis_bits < std::uint64_t{1} << u.size(); ++trellis_bits) {
    double sum = 0;
    unsigned window = 0;
    for (std::size_t d = 0; d < u.size(); ++d) {
      window = window << 1 | (trellis_bits >> d & 1u);
      const std::int8_t* points = core::codebook(bits).values + (core::trellis_subset(window) << (bits - 1));
      double nearest = std::numeric_limits<double>::infinity();
      for (unsigned rank = 0; rank < 1u << (bits - 1); ++rank)
        nearest = std::min(nearest, (u[d] - points[rank]) * (u[d] - points[rank]));
      sum += nearest;
    }
    least = std::min(least, sum);
  }
  return least;
}

TEST_CASE("trellis quantizer: every table gives the same bits", "[trellis]") {
  for (const std::size_t head_dim : {8, 24, 40, 64, 80, 96, 128, 256, 512})
    for (unsigned bits = 1; bits <= 5; ++bits)
      for (const ScaleRule rule : {ScaleRule::kNorm, ScaleRule::kProjection})
        for (unsigned seed = 0; seed < 3; ++seed) {
          const std::vector<float> tile = random_tile(head_dim, seed);
          const Quantized expected = quantize(*core::supported_kernels().back(), bits, rule, tile);
          for (const core::KernelTable* table : core::supported_kernels()) {
            INFO(table->name << " head_dim " << head_dim << " bits " << bits);
            CHECK(quantize(*table, bits, rule, tile) == expected);
          }
          CHECK(expected.scales[5] == 0.0f);
          for (std::size_t d = 0; d < head_dim; ++d) REQUIRE(expected.codes[d * kLanes + 5] == 0);
        }
}

// spec/codecs.md, "Codes of least square error", for one vector in units of the alphabet.
std::vector<unsigned> codes_by_specification(unsigned bits, const std::vector<float>& u) {
  struct Step {
    unsigned rank[4];
    bool from_second[8];
  };
  std::vector<Step> steps(u.size());
  std::vector<float> cost(8, std::numeric_limits<float>::infinity());
  cost[0] = 0.0f;
  for (std::size_t d = 0; d < u.size(); ++d) {
    float error[4];
    for (unsigned i = 0; i < 4; ++i) {
      const std::int8_t* points = core::codebook(bits).values + (i << (bits - 1));
      unsigned rank = 0;
      while (rank + 1 < 1u << (bits - 1) && 2 * u[d] >= static_cast<float>(points[rank] + points[rank + 1])) ++rank;
      const float difference = u[d] - static_cast<float>(points[rank]);
      error[i] = difference * difference;
      steps[d].rank[i] = rank;
    }
    const std::vector<float> before = cost;
    for (unsigned s = 0; s < 8; ++s) {
      const unsigned subset = 2 * ((s ^ s >> 1) & 1) + (s >> 2);
      const float a = before[s >> 1] + error[subset], b = before[(s >> 1) + 4] + error[subset ^ 2];
      steps[d].from_second[s] = b < a;
      cost[s] = b < a ? b : a;
    }
  }
  auto state = static_cast<unsigned>(std::min_element(cost.begin(), cost.end()) - cost.begin());
  std::vector<unsigned> codes(u.size());
  for (std::size_t d = u.size(); d-- > 0;) {
    const unsigned second = steps[d].from_second[state] ? 1 : 0;
    const unsigned subset = (2 * ((state ^ state >> 1) & 1) + (state >> 2)) ^ (2 * second);
    codes[d] = (state & 1) << (bits - 1) | steps[d].rank[subset];
    state = (state >> 1) + 4 * second;
  }
  return codes;
}

// Vectors of small integers, and of a single one among zeros: many costs are equal, as alphabets are symmetric.
TEST_CASE("trellis quantizer: equal costs are decided as the specification says", "[trellis]") {
  const core::KernelTable& table = *core::supported_kernels().front();
  std::mt19937 random(1);
  for (const std::size_t head_dim : {8, 64})
    for (unsigned bits = 1; bits <= 5; ++bits)
      for (int round = 0; round < 20; ++round) {
        std::vector<float> tile(head_dim * kLanes);
        for (float& value : tile) value = static_cast<float>(static_cast<int>(random() % 5) - 2);
        if (round % 2 == 0)
          for (std::size_t i = 0; i < tile.size(); ++i) tile[i] = i / kLanes == i % kLanes ? 1.0f : 0.0f;
        const Quantized got = quantize(table, bits, ScaleRule::kNorm, tile);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
          float total = 0;  // of small integers: exact
          for (std::size_t d = 0; d < head_dim; ++d) total += tile[d * kLanes + lane] * tile[d * kLanes + lane];
          if (total == 0.0f) continue;
          const float inverse = 1.0f / (std::sqrt(total / static_cast<float>(head_dim)) * core::codebook(bits).step);
          std::vector<float> u;
          for (std::size_t d = 0; d < head_dim; ++d) u.push_back(tile[d * kLanes + lane] * inverse);
          const std::vector<unsigned> expected = codes_by_specification(bits, u);
          for (std::size_t d = 0; d < head_dim; ++d) {
            INFO("head_dim " << head_dim << " bits " << bits << " lane " << lane << " dimension " << d);
            REQUIRE(got.codes[d * kLanes + lane] == expected[d]);
          }
        }
      }
}

// Costs are sums of 16 floats, each rounded to within 2^-24 of the sum, and differences of floats with 2^-23 of u, at
// most 16 / step, beside the error itself: far below 1e-4 of a cost.
TEST_CASE("trellis quantizer: no sequence of codes is nearer", "[trellis]") {
  const core::KernelTable& table = *core::supported_kernels().front();
  for (const std::size_t head_dim : {8, 16})
    for (unsigned bits = 1; bits <= 5; ++bits) {
      if (head_dim == 16 && bits > 2) continue;
      const std::vector<float> tile = random_tile(head_dim, bits);
      const Quantized got = quantize(table, bits, ScaleRule::kNorm, tile);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (lane == 5) continue;
        INFO("head_dim " << head_dim << " bits " << bits << " lane " << lane);
        const std::vector<double> u = in_units(lane_of(tile, lane), bits);
        const double least = least_distance(bits, u), found = distance(u, integers_of(bits, got.codes, lane));
        CHECK(found <= least * 1.0001);
        CHECK(found >= least * 0.9999);
      }
    }
}

// Sums of head_dim products, a square root and three divisions in float.
TEST_CASE("trellis quantizer: scales keep the norm, or the projection", "[trellis]") {
  const core::KernelTable& table = *core::supported_kernels().front();
  for (const std::size_t head_dim : {8, 64, 512})
    for (unsigned bits = 1; bits <= 5; ++bits) {
      const std::vector<float> tile = random_tile(head_dim, bits);
      const Quantized keys = quantize(table, bits, ScaleRule::kNorm, tile);
      const Quantized values = quantize(table, bits, ScaleRule::kProjection, tile);
      CHECK(keys.codes == values.codes);
      const double step = core::codebook(bits).step, tolerance = static_cast<double>(head_dim / 16 + 16) * 0x1p-23;
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (lane == 5) continue;
        INFO("head_dim " << head_dim << " bits " << bits << " lane " << lane);
        const std::vector<double> y = lane_of(tile, lane), q = integers_of(bits, keys.codes, lane);
        const double norm = std::sqrt(product(y, y) / product(q, q)) / step;
        CHECK(keys.scales[lane] == Approx(norm).epsilon(tolerance));
        // Products of both signs: their rounding is relative to the sum of magnitudes, at most |y| |q|.
        const double slack = tolerance * std::sqrt(product(y, y) * product(q, q)) / product(y, q);
        CHECK(values.scales[lane] == Approx(product(y, y) / product(y, q) / step).epsilon(slack));
      }
    }
}

}  // namespace
