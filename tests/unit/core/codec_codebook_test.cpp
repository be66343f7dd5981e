// The pinned codebooks against Lloyd-Max recomputed here.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "core/codebook.h"
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

TEST_CASE("codebooks of 1 to 6 bits are Lloyd-Max to the last digit", "[codec]") {
  for (unsigned bits = 1; bits <= 6; ++bits) {
    const Codebook& book = codebook(bits);
    const std::vector<double> centroids = lloyd_max(bits);
    const std::size_t half = centroids.size();
    CHECK(book.step == static_cast<float>(centroids.back() / 127));
    for (std::size_t i = 0; i < half; ++i) {
      INFO("bits " << bits << " centroid " << i);
      CHECK(book.values[half + i] == std::lround(centroids[i] / centroids.back() * 127));
      CHECK(book.values[half - 1 - i] == -book.values[half + i]);
    }
    for (std::size_t code = 2 * half; code < 256; ++code) CHECK(book.values[code] == 0);
  }
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
