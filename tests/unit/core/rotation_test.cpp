#include "core/rotation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace {

using namespace polykv::core;

constexpr std::size_t kHeadDims[] = {8, 16, 24, 40, 64, 80, 96, 128, 256, 512};

std::vector<float> gaussian(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(size);
  for (float& value : out) value = normal(generator);
  return out;
}

double norm(const std::vector<float>& x) {
  double sum = 0;
  for (const float value : x) sum += double{value} * value;
  return std::sqrt(sum);
}

TEST_CASE("the rotation's signs are those of the specification", "[rotation]") {
  // Bit d % 8 of byte d / 8 is set where the sign is negative.
  static constexpr std::uint8_t kNegative[64] = {
      0x89, 0xfa, 0x7a, 0x73, 0x04, 0x31, 0xcc, 0x9e, 0xe8, 0x6e, 0xc1, 0x1a, 0xb6, 0x05, 0x5e, 0x36,
      0x6b, 0x86, 0x83, 0xbe, 0x6e, 0x2b, 0x67, 0x0b, 0x52, 0xf6, 0xb8, 0x53, 0x86, 0x56, 0x99, 0x3c,
      0x41, 0xa2, 0x58, 0x4a, 0x84, 0x1e, 0x86, 0x1d, 0x48, 0xd4, 0x90, 0xc0, 0xcb, 0x39, 0x71, 0xab,
      0xd5, 0x56, 0x62, 0xb8, 0xe5, 0xe9, 0xd6, 0xc8, 0xf2, 0x56, 0x82, 0x1e, 0xa6, 0x9c, 0x04, 0x0a};
  for (std::size_t d = 0; d < 512; ++d) {
    INFO("dimension " << d);
    CHECK(kRotationSigns[d] == ((kNegative[d / 8] >> (d % 8) & 1) != 0 ? -1.0f : 1.0f));
  }
}

TEST_CASE("rotating is the signed Walsh-Hadamard matrix", "[rotation]") {
  for (const std::size_t head_dim : kHeadDims) {
    const std::size_t block = rotation_block(head_dim);
    REQUIRE(head_dim % block == 0);
    REQUIRE(std::has_single_bit(block));
    REQUIRE(head_dim / block % 2 == 1);
    const float factor = static_cast<float>(1 / std::sqrt(static_cast<double>(block)));
    for (std::size_t d = 0; d < head_dim; ++d) {
      std::vector<float> x(head_dim, 0.0f);
      x[d] = 1.0f;
      rotate(x);
      for (std::size_t i = 0; i < head_dim; ++i) {  // sums of one term and zeros: exact
        const float sign = (std::popcount((i & d) % block) % 2 == 0 ? 1.0f : -1.0f) * kRotationSigns[d];
        const float expected = i / block == d / block ? factor * sign : 0.0f;
        if (x[i] != expected) FAIL("head_dim " << head_dim << " row " << i << " column " << d);
      }
    }
    // Rows of +-factor have norm 1 to within the rounding of factor: relative 2^-24, squared 2^-23.
    CHECK(std::fabs(static_cast<double>(block) * factor * factor - 1) <= 0x1p-23);
  }
}

TEST_CASE("rotating keeps norms and comes back", "[rotation]") {
  for (const std::size_t head_dim : kHeadDims) {
    const std::vector<float> x = gaussian(head_dim, 1);
    std::vector<float> y = x;
    rotate(y);
    // log2(block) butterfly stages and one multiplication by a rounded constant, each off by 2^-24 of the vector's
    // norm.
    const double steps = std::log2(static_cast<double>(rotation_block(head_dim))) + 2;
    CHECK(std::fabs(norm(y) - norm(x)) <= steps * 0x1p-24 * norm(x));
    unrotate(y);
    double largest = 0;
    for (std::size_t d = 0; d < head_dim; ++d) largest = std::max(largest, std::fabs(double{y[d]} - x[d]));
    CHECK(largest <= 2 * steps * 0x1p-24 * norm(x));
    CHECK(largest > 0);  // or nothing was rotated
  }
}

TEST_CASE("16 vectors at once are the bits of one at a time", "[rotation]") {
  for (const std::size_t head_dim : kHeadDims) {
    std::vector<float> rotated = gaussian(head_dim * 16, 2), unrotated = rotated;
    const std::vector<float> x = rotated;
    rotate_16(rotated);
    unrotate_16(unrotated);
    for (std::size_t lane = 0; lane < 16; ++lane) {
      std::vector<float> one(head_dim), back(head_dim);
      for (std::size_t d = 0; d < head_dim; ++d) one[d] = back[d] = x[d * 16 + lane];
      rotate(one);
      unrotate(back);
      for (std::size_t d = 0; d < head_dim; ++d) {
        REQUIRE(std::bit_cast<std::uint32_t>(one[d]) == std::bit_cast<std::uint32_t>(rotated[d * 16 + lane]));
        REQUIRE(std::bit_cast<std::uint32_t>(back[d]) == std::bit_cast<std::uint32_t>(unrotated[d * 16 + lane]));
      }
    }
  }
}

}  // namespace
