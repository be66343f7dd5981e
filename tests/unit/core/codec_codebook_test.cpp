// The pinned codebook of 6 bits against Lloyd-Max recomputed here, and the alphabets of trellis codes against what they
// are for: the least square error.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numbers>
#include <vector>

#include "core/codebook.h"
#include "core/trellis.h"
#include "tests/support/catch.h"

namespace {

using polykv::core::Codebook;
using polykv::core::codebook;

double density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }
double upper_tail(double x) { return std::erfc(x / std::numbers::sqrt2) / 2; }

// Positive centroids of the best 2^bits-level quantizer of N(0, 1), by Lloyd's iteration in closed form.
std::vector<double> lloyd_max(unsigned bits) {
  const std::size_t half = std::size_t{1} << (bits - 1);
  std::vector<double> centroids;
  for (std::size_t i = 0; i < half; ++i)
    centroids.push_back((static_cast<double>(i) + 0.5) / static_cast<double>(half) * (1.2 + 0.45 * bits));
  for (double change = 1; change > 1e-13;) {
    std::vector<double> edges{0};
    for (std::size_t i = 0; i + 1 < half; ++i) edges.push_back((centroids[i] + centroids[i + 1]) / 2);
    edges.push_back(std::numeric_limits<double>::infinity());
    change = 0;
    for (std::size_t i = 0; i < half; ++i) {
      const double moved =
          (density(edges[i]) - density(edges[i + 1])) / (upper_tail(edges[i]) - upper_tail(edges[i + 1]));
      change = std::max(change, std::fabs(moved - centroids[i]));
      centroids[i] = moved;
    }
  }
  return centroids;
}

TEST_CASE("the codebook of 6 bits is Lloyd-Max to the last digit", "[codec]") {
  const Codebook& book = codebook(6);
  const std::vector<double> centroids = lloyd_max(6);
  const std::size_t half = centroids.size();
  CHECK(book.step == static_cast<float>(centroids.back() / 127));
  for (std::size_t i = 0; i < half; ++i) {
    INFO("centroid " << i);
    CHECK(book.values[half + i] == std::lround(centroids[i] / centroids.back() * 127));
    CHECK(book.values[half - 1 - i] == -book.values[half + i]);
  }
  for (std::size_t code = 2 * half; code < 256; ++code) CHECK(book.values[code] == 0);
}

TEST_CASE("alphabets of trellis codes: four ascending subsets of ascending, symmetric integers", "[codec]") {
  for (unsigned bits = 1; bits <= 5; ++bits) {
    INFO("bits " << bits);
    const Codebook& book = codebook(bits);
    const std::size_t size = std::size_t{2} << bits;
    std::vector<int> alphabet;
    for (std::size_t i = 0; i < size; ++i) alphabet.push_back(book.values[i % 4 << (bits - 1) | i / 4]);
    CHECK(std::is_sorted(alphabet.begin(), alphabet.end(), std::less_equal<>()));
    CHECK(alphabet.back() == 127);
    for (std::size_t i = 0; i < size; ++i) CHECK(alphabet[i] == -alphabet[size - 1 - i]);
    for (std::size_t i = size; i < 256; ++i) CHECK(book.values[i] == 0);
  }
}

// Marcellin and Fischer 1990 build on Ungerboeck's eight-state code with parity checks 13 and 04 (octal).
TEST_CASE("subsets follow the parities of the window", "[codec]") {
  for (unsigned window = 0; window < 64; ++window) {
    const unsigned y1 = static_cast<unsigned>(std::popcount(window & 013u)) % 2;
    const unsigned y0 = static_cast<unsigned>(std::popcount(window & 004u)) % 2;
    CHECK(polykv::core::trellis_subset(window) == 2 * y1 + y0);
  }
}

// On a boundary it is the greater point.
TEST_CASE("the nearest points of all subsets, by search", "[codec]") {
  using polykv::core::NearestPoints;
  for (unsigned bits = 1; bits <= 5; ++bits) {
    const NearestPoints& table = polykv::core::nearest_points(bits);
    for (int doubled = NearestPoints::kLowest; doubled <= NearestPoints::kHighest; ++doubled) {
      const std::uint64_t entry = table.entry[static_cast<std::size_t>(doubled - NearestPoints::kLowest)];
      for (unsigned subset = 0; subset < 4; ++subset) {
        const std::int8_t* points = codebook(bits).values + (subset << (bits - 1));
        const auto distance = [&](unsigned i) { return std::abs(2 * points[i] - doubled); };  // u = doubled / 2
        unsigned best = 0;
        for (unsigned i = 1; i < 1u << (bits - 1); ++i)
          if (distance(i) <= distance(best)) best = i;
        REQUIRE(static_cast<std::int8_t>(entry >> (8 * subset) & 0xff) == points[best]);
        REQUIRE((entry >> (40 + 4 * subset) & 15) == best);
      }
    }
  }
}

TEST_CASE("scale bytes", "[codec]") {
  using namespace polykv::core;
  CHECK(byte_to_scale(0, 5) == 0.0f);
  CHECK(byte_to_scale(1, 0) == 1.03125f);
  CHECK(byte_to_scale(32, 0) == 2.0f);
  CHECK(byte_to_scale(255, -7) == 1.96875f);
  CHECK(byte_to_scale(255, 63) == 0x1.f8p70f);
  CHECK(byte_to_scale(1, -64) == 0x1.08p-64f);
  for (const int exponent : {-64, -7, 0, 63})
    for (int byte = 0; byte < 256; ++byte) {
      const float scale = byte_to_scale(static_cast<std::uint8_t>(byte), exponent);
      CHECK(scale_to_byte(scale, exponent) == byte);
      if (byte == 0 || byte == 255) continue;
      const float next = byte_to_scale(static_cast<std::uint8_t>(byte + 1), exponent);
      CHECK(scale_to_byte((scale + next) / 2, exponent) == byte + 1);  // half up
      CHECK(scale_to_byte(std::nextafter((scale + next) / 2, 0.0f), exponent) == byte);
    }
  CHECK(scale_to_byte(0x1p-4f, -4) == 1);  // what rounds to 0 becomes 1 down to half of 2^exponent
  CHECK(scale_to_byte(0x1p-5f, -4) == 1);
  CHECK(scale_to_byte(std::nextafter(0x1p-5f, 0.0f), -4) == 0);
  CHECK(scale_to_byte(0.0f, -4) == 0);
  CHECK(scale_to_byte(0.0f, -64) == 0);
  CHECK(*scale_exponent(0.0f) == 0);
  CHECK(*scale_exponent(1.0f) == -7);
  CHECK(*scale_exponent(std::nextafter(0x1.fcp0f, 0.0f)) == -7);  // 255 is 1.96875; from 1.984375 on it would be 256
  CHECK(*scale_exponent(0x1.fcp0f) == -6);
  CHECK(*scale_exponent(0x1p-80f) == -64);
  CHECK(*scale_exponent(std::nextafter(0x1.fcp70f, 0.0f)) == 63);
  CHECK_FALSE(scale_exponent(0x1.fcp70f).has_value());
  CHECK_FALSE(scale_exponent(std::numeric_limits<float>::infinity()).has_value());
}

// The table everybody prints (Max, 1960; Lloyd, 1982), to its six digits.
TEST_CASE("published Lloyd-Max constants", "[codec]") {
  CHECK(lloyd_max(1)[0] == Approx(0.797885).margin(5e-7));
  CHECK(lloyd_max(2)[0] == Approx(0.452780).margin(5e-7));
  CHECK(lloyd_max(2)[1] == Approx(1.510418).margin(5e-7));
  CHECK(lloyd_max(3)[2] == Approx(1.343909).margin(5e-7));
  CHECK(lloyd_max(4)[7] == Approx(2.732590).margin(5e-7));
  CHECK(lloyd_max(5)[0] == Approx(0.065890).margin(5e-7));
  CHECK(lloyd_max(6)[31] == Approx(3.744101).margin(5e-7));
}

TEST_CASE("codebooks of 7 and 8 bits are uniform and reach 4", "[codec]") {
  CHECK(codebook(7).step == 4.0f / 127.0f);
  CHECK(codebook(8).step == 4.0f / 127.0f);
  for (int code = 0; code < 256; ++code) {
    CHECK(codebook(7).values[code] == (code < 128 ? 2 * code - 127 : 0));
    CHECK(codebook(8).values[code] == (code < 128 ? code : code - 256));
  }
}

}  // namespace
