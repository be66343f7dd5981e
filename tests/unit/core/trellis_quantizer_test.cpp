// The trellis quantizer: the same bits from every kernel table, the least error there is, the scale that is asked for.
#include "core/kernels/trellis_quantizer.h"

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
