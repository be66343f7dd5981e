// What quantizing loses, what it must keep, and what it refuses.
#include "core/codec.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>
#include <vector>

#include "core/codebook.h"
#include "core/float16.h"
#include "format/page_layout.h"
#include "tests/support/catch.h"

namespace {

using namespace polykv;
using core::CodecPair;
using core::float16_to_float;
using core::float_to_float16;

std::vector<std::uint16_t> gaussian(std::size_t size, unsigned seed, float factor = 1.0f, float offset = 0.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> out(size);
  for (std::uint16_t& value : out) value = float_to_float16(factor * normal(generator) + offset);
  return out;
}

std::vector<float> as_floats(const std::vector<std::uint16_t>& halves) {
  std::vector<float> out;
  for (const std::uint16_t half : halves) out.push_back(float16_to_float(half));
  return out;
}

struct RoundTrip {
  std::vector<float> keys, values;
};

RoundTrip round_trip(CodecPair codec, const std::vector<std::uint16_t>& keys, const std::vector<std::uint16_t>& values,
                     std::size_t head_dim, const std::vector<std::uint16_t>& mean = {}) {
  std::vector<std::byte> pages(format::run_bytes(codec.key, codec.value, head_dim, keys.size() / head_dim));
  const auto exponents = core::quantize_run(codec, keys, values, head_dim, {.mean = mean}, pages);
  REQUIRE(exponents.has_value());
  RoundTrip out{std::vector<float>(keys.size()), std::vector<float>(values.size())};
  core::dequantize_run(codec, *exponents, pages, keys.size() / head_dim, head_dim, {.mean = mean}, out.keys,
                       out.values);
  return out;
}

double square_error(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return sum;
}

double squares(const std::vector<float>& a) { return square_error(a, std::vector<float>(a.size(), 0.0f)); }

TEST_CASE("codec names", "[codec]") {
  CHECK(core::parse_codec_name("f16") == CodecPair{16, 16});
  for (std::uint8_t key = 1; key <= 8; ++key)
    for (std::uint8_t value = 1; value <= 8; ++value)
      CHECK(core::parse_codec_name(core::codec_name({key, value})) == CodecPair{key, value});
  CHECK(core::codec_name({5, 4}) == "k5v4");
  CHECK(core::codec_name({16, 16}) == "f16");
  for (const char* name : {"", "k5", "k0v4", "k9v4", "k5v0", "k5v9", "v4k5", "k5v44", "K5V4", "k5v4 ", "f32", "k16v16"})
    CHECK_FALSE(core::parse_codec_name(name).has_value());
}

TEST_CASE("mean of keys", "[codec]") {
  const std::vector<std::uint16_t> keys{0x3c00, 0x4000, 0x4200, 0x7bff, 0x4400, 0xc000, 0x0001, 0x7bff,
                                        0x3c00, 0x4000, 0x4200, 0x7bff, 0x4400, 0xc000, 0x0002, 0xfbff};
  std::vector<std::uint16_t> mean(8, 0xffff);
  core::mean_of_keys(keys, 8, mean);
  CHECK(mean ==
        std::vector<std::uint16_t>{0x3c00, 0x4000, 0x4200, 0x7bff, 0x4400, 0xc000, 0x0002, 0x0000});  // 1.5 to even
  core::mean_of_keys({}, 8, mean);
  CHECK(mean == std::vector<std::uint16_t>(8, 0));
}

// Relative square error of a unit Gaussian quantized to a codebook, its norm then corrected. With q the centroid of z:
// a = E[z q], m = E[q^2]; the corrected vector is q / sqrt(m), so the error is 2 - 2 a / sqrt(m).
struct Theory {
  double plain;      // E[(z - q)^2]
  double corrected;  // 2 - 2 a / sqrt(m)
};

Theory gaussian_theory(unsigned bits) {
  const core::Codebook& book = core::codebook(bits);
  std::vector<double> centroids;
  for (int code = 0; code < (1 << bits); ++code)
    if (!(bits == 8 && code == 128)) centroids.push_back(double{book.step} * book.values[code]);
  std::sort(centroids.begin(), centroids.end());
  const auto density = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); };
  const auto below = [](double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; };
  double a = 0, m = 0;
  for (std::size_t i = 0; i < centroids.size(); ++i) {
    const double low = i == 0 ? -HUGE_VAL : (centroids[i - 1] + centroids[i]) / 2;
    const double high = i + 1 == centroids.size() ? HUGE_VAL : (centroids[i] + centroids[i + 1]) / 2;
    a += centroids[i] * (density(low) - density(high));
    m += centroids[i] * centroids[i] * (below(high) - below(low));
  }
  return {1 - 2 * a + m, 2 - 2 * a / std::sqrt(m)};
}

TEST_CASE("integer codebooks lose next to nothing against Lloyd-Max", "[codec]") {
  constexpr double kLloydMax = 0.000644;  // 6 bits
  // A centroid moved by at most half a step adds at most its square; the table's own rounding is half its last digit.
  const double half_step = double{core::codebook(6).step} / 2;
  CHECK(gaussian_theory(6).plain >= kLloydMax - 5e-7);
  CHECK(gaussian_theory(6).plain <= kLloydMax + half_step * half_step + 5e-7);
  CHECK(gaussian_theory(7).plain == Approx(0.000337).epsilon(0.005));  // (8 / 127)^2 / 12 and what lies beyond 4
  CHECK(gaussian_theory(8).plain == Approx(0.000089).epsilon(0.02));   // (4 / 127)^2 / 12 and the same
}

// Gaussian vectors, head_dim 512. A rotated unit vector's coordinates have thinner tails than a Gaussian: the fourth
// moment is 3 - 6 / 514. The effect on the error is of order 1 / head_dim (6.5 % at 64 for 4 bits, measured, so 0.8 %
// at 512), most where what lies beyond the outermost centroid counts. 131,072 samples of a squared error whose standard
// deviation is at most twice its mean: three sigma are 1.7 %. float16 scales add 2^-24 / 3 relative. So 4 % below, 2 %
// above.
TEST_CASE("round trip error of 6 to 8 bits is that of theory", "[codec]") {
  const std::size_t head_dim = 512, num_positions = 256;
  const auto x = gaussian(head_dim * num_positions, 3);
  const std::vector<std::uint16_t> mean(head_dim, 0);
  const std::vector<float> exact = as_floats(x);
  for (std::uint8_t bits = 6; bits <= 8; ++bits) {
    const CodecPair codec{bits == 8 ? std::uint8_t{7} : bits, bits};
    const RoundTrip got = round_trip(codec, x, x, head_dim, mean);
    const double value_error = square_error(exact, got.values) / squares(exact);
    const double key_error = square_error(exact, got.keys) / squares(exact);
    INFO("bits " << int{bits} << " values " << value_error << " keys " << key_error << " theory "
                 << gaussian_theory(bits).corrected);
    CHECK(value_error > 0.96 * gaussian_theory(bits).corrected);
    CHECK(value_error < 1.02 * gaussian_theory(bits).corrected);
    CHECK(key_error > 0.96 * gaussian_theory(codec.key).corrected);
    CHECK(key_error < 1.02 * gaussian_theory(codec.key).corrected);
  }
}

// Trellis codes have no closed form: kErrors are those of spec/codecs.md, section 10, with a scale of the alphabet's
// own. Where q is the mean of what it stands for, <x, q> = |q|^2 = (1 - D) |x|^2, so keeping the norm makes 2 - 2
// sqrt(1 - D) of D, keeping the projection D / (1 - D). A scale for each vector is one of 64 degrees of freedom less.
// Scale bytes err by up to 1 / 64, uniformly, over 1 to 2: (1 / 32)^2 / 12 / 2. 262,144 samples, as above: three sigma
// are 1.2 %; 4 % leave room for the approximations, and 33 % are what is gained over a codebook.
TEST_CASE("round trip error of trellis codes", "[codec]") {
  static constexpr double kErrors[] = {0.3087, 0.08646, 0.02353, 0.006183, 0.001600};
  const std::size_t head_dim = 64, num_positions = 4096;
  const auto x = gaussian(head_dim * num_positions, 3);
  const std::vector<std::uint16_t> mean(head_dim, 0);
  const std::vector<float> exact = as_floats(x);
  for (std::uint8_t bits = 1; bits <= 5; ++bits) {
    const RoundTrip got = round_trip({bits, bits}, x, x, head_dim, mean);
    const double error = kErrors[bits - 1], from_scales = 1.0 / 32 / 32 / 24;
    const double keys = (2 - 2 * std::sqrt(1 - error)) * 63 / 64 + from_scales;
    const double values = error / (1 - error) * 63 / 64 + from_scales;
    const double found_keys = square_error(exact, got.keys) / squares(exact);
    const double found_values = square_error(exact, got.values) / squares(exact);
    INFO("bits " << int{bits} << " keys " << found_keys << " " << keys << " values " << found_values << " " << values);
    CHECK(found_keys > 0.96 * keys);
    CHECK(found_keys < 1.04 * keys);
    CHECK(found_values > 0.96 * values);
    CHECK(found_values < 1.04 * values);
  }
}

// k8: the error of a value is uniform within half a scale, scale = max|x| / 127: its mean square is scale^2 / 12, but
// for the largest of a block, which is exact. The expected square of the largest of 32 Gaussian magnitudes is 5.71
// (integrated numerically), so 31 / 32 * 5.71 / 127^2 / 12 = 2.86e-5. 4,096 blocks whose squared maximum has a standard
// deviation of 2.25: three sigma are 1.9 %.
TEST_CASE("round trip error of k8", "[codec]") {
  const std::size_t head_dim = 64, num_positions = 2048;
  const auto x = gaussian(head_dim * num_positions, 4);
  const RoundTrip got = round_trip({8, 8}, x, x, head_dim);
  const std::vector<float> exact = as_floats(x);
  const double error = square_error(exact, got.keys) / squares(exact);
  CHECK(error > 0.97 * 2.86e-5);
  CHECK(error < 1.03 * 2.86e-5);
  // Each value on its own: half a scale, where the scale was rounded by 2^-11 and 127 of it reach the maximum.
  for (std::size_t begin = 0; begin < exact.size(); begin += 32) {
    float largest = 0;
    for (std::size_t i = begin; i < begin + 32; ++i) largest = std::max(largest, std::fabs(exact[i]));
    for (std::size_t i = begin; i < begin + 32; ++i)
      if (std::fabs(got.keys[i] - exact[i]) > largest * (0.5 / 127 + 0x1p-11)) FAIL("value " << i);
  }
}

// Quotients of two float16 come no nearer to a half-integer than 2^-12 unless they are one: double decides which. One
// code in 80,000 is such a tie (measured), and multiplying by a reciprocal instead of dividing gets some of them wrong.
TEST_CASE("k8 rounds exact quotients, ties to even", "[codec]") {
  const std::size_t head_dim = 32, num_positions = 20'000;
  std::mt19937 generator(13);
  std::vector<std::uint16_t> keys(head_dim * num_positions);  // magnitudes from 2^-4 to 4, all mantissas
  for (std::uint16_t& key : keys)
    key = static_cast<std::uint16_t>(0x2c00 + generator() % 0x1800 + (generator() & 0x8000));
  const RoundTrip got = round_trip({8, 1}, keys, keys, head_dim);
  const std::vector<float> exact = as_floats(keys);
  std::size_t num_ties = 0;
  for (std::size_t begin = 0; begin < exact.size(); begin += head_dim) {
    float largest = 0;
    for (std::size_t i = begin; i < begin + head_dim; ++i) largest = std::max(largest, std::fabs(exact[i]));
    const double scale = float16_to_float(float_to_float16(largest / 127.0f));
    for (std::size_t i = begin; i < begin + head_dim; ++i) {
      const double quotient = exact[i] / scale, floor = std::floor(quotient);
      const bool tie = quotient - floor == 0.5;
      num_ties += tie;
      const double code = tie ? 2 * std::round(quotient / 2) : std::floor(quotient + 0.5);
      if (double{got.keys[i]} != std::clamp(code, -127.0, 127.0) * scale)
        FAIL("value " << i << " quotient " << quotient);
    }
  }
  CHECK(num_ties > 0);
}

// Values of trellis codes keep the projection on themselves instead.
TEST_CASE("the norm is kept", "[codec]") {
  for (const std::size_t head_dim :
       {std::size_t{8}, std::size_t{40}, std::size_t{64}, std::size_t{128}, std::size_t{512}}) {
    const auto x = gaussian(head_dim * 33, 5, 3.0f);
    const std::vector<std::uint16_t> mean(head_dim, 0);
    const std::vector<float> exact = as_floats(x);
    for (std::uint8_t bits = 1; bits <= 8; ++bits) {
      const RoundTrip got = round_trip({bits == 8 ? std::uint8_t{7} : bits, bits}, x, x, head_dim, mean);
      for (std::size_t position = 0; position < 33; ++position) {
        const auto part = [&](const std::vector<float>& all) {
          return std::vector<float>(all.begin() + static_cast<std::ptrdiff_t>(position * head_dim),
                                    all.begin() + static_cast<std::ptrdiff_t>((position + 1) * head_dim));
        };
        // float16 rounds the scale by 2^-11, a byte by 2^-6; sums of head_dim terms and log2(head_dim) butterflies
        // round in float.
        const double tolerance = (bits <= 5 ? 0x1p-6 : 0x1p-11) + static_cast<double>(head_dim + 32) * 0x1p-24;
        const std::vector<float> x_part = part(exact), value_part = part(got.values);
        const double norm = std::sqrt(squares(x_part));
        double product = 0;
        for (std::size_t d = 0; d < head_dim; ++d) product += double{x_part[d]} * value_part[d];
        const double kept = bits <= 5 ? product / (norm * norm) : std::sqrt(squares(value_part)) / norm;
        REQUIRE(std::fabs(kept - 1) <= tolerance);
        REQUIRE(std::fabs(std::sqrt(squares(part(got.keys))) / norm - 1) <= tolerance);
      }
    }
  }
}

TEST_CASE("keys far from zero come back through their mean", "[codec]") {
  const std::size_t head_dim = 64, num_positions = 100;
  const auto keys = gaussian(head_dim * num_positions, 6, 0.5f, 20.0f);
  std::vector<std::uint16_t> mean(head_dim);
  core::mean_of_keys(keys, head_dim, mean);
  const std::vector<float> exact = as_floats(keys);
  const double variance = 0.25 * static_cast<double>(exact.size());
  const RoundTrip with = round_trip({5, 8}, keys, keys, head_dim, mean);
  const RoundTrip without = round_trip({5, 8}, keys, keys, head_dim, std::vector<std::uint16_t>(head_dim, 0));
  CHECK(square_error(exact, with.keys) < 0.003 * variance);   // 5 bits: 0.0025 of the variance that is left
  CHECK(square_error(exact, without.keys) > 0.1 * variance);  // and of the mean's square, 1600 variances, otherwise
  // A key equal to the mean has norm 0 and codes 0, and comes back as the mean exactly.
  const RoundTrip same = round_trip({5, 8}, mean, mean, head_dim, mean);
  CHECK(same.keys == as_floats(mean));
  // f16 and k8 remove none, even if one is given.
  CHECK(round_trip({16, 16}, keys, keys, head_dim, mean).keys == exact);
  CHECK(round_trip({8, 8}, keys, keys, head_dim, mean).keys == round_trip({8, 8}, keys, keys, head_dim).keys);
}

TEST_CASE("f16 keeps every bit", "[codec]") {
  for (const std::size_t head_dim : {std::size_t{8}, std::size_t{24}, std::size_t{64}}) {
    std::vector<std::uint16_t> x = gaussian(head_dim * 77, 7, 100.0f);
    x[0] = 0x8000;
    x[1] = 0x0001;
    x[2] = 0xfbff;
    const RoundTrip got = round_trip({16, 16}, x, x, head_dim);
    CHECK(got.keys == as_floats(x));
    CHECK(got.values == as_floats(x));
    CHECK(std::signbit(got.keys[0]));
  }
}

TEST_CASE("zero and tiny vectors are zero, not noise", "[codec]") {
  const std::size_t head_dim = 64;
  for (std::uint8_t bits = 6; bits <= 8; ++bits) {
    for (const int tiny : {0x0000, 0x8000, 0x0001}) {
      std::vector<std::uint16_t> x(head_dim, 0);
      x[7] = static_cast<std::uint16_t>(
          tiny);  // a norm of 2^-24 over 64 dimensions: a scale of about 2^-27, which float16 does not have
      const RoundTrip got = round_trip({bits, bits}, x, x, head_dim, std::vector<std::uint16_t>(head_dim, 0));
      CHECK(squares(got.values) == 0);
      if (bits != 8 || tiny != 1) CHECK(squares(got.keys) == 0);
    }
  }
}

// A byte reaches down to half of the run's 2^exponent, 2^-9 of what its largest scale is at least, as the exponent is 7
// less than that of the largest.
TEST_CASE("vectors much smaller than others of their run are zero", "[codec]") {
  const std::size_t head_dim = 64, num_positions = 20;
  const auto direction = gaussian(head_dim, 9);
  const std::vector<std::uint16_t> mean(head_dim, 0);
  for (std::uint8_t bits = 1; bits <= 5; ++bits) {
    for (const int power : {0, -7, -10, -12, -24}) {
      std::vector<std::uint16_t> x;
      for (std::size_t position = 0; position < num_positions; ++position)
        for (const std::uint16_t half : direction)
          x.push_back(float_to_float16(std::ldexp(float16_to_float(half), position == 17 ? power : 0)));
      const RoundTrip got = round_trip({bits, bits}, x, x, head_dim, mean);
      for (const std::vector<float>* side : {&got.keys, &got.values}) {
        const auto vector = [&](std::ptrdiff_t position) {
          return std::vector<float>(side->begin() + position * 64, side->begin() + (position + 1) * 64);
        };
        CHECK(vector(16) == vector(18));
        CHECK((squares(vector(17)) > 0) == (power >= -7));
        if (power == -7) CHECK(std::sqrt(squares(vector(17)) / squares(vector(16))) * 128 == Approx(1).margin(0.04));
      }
    }
    // Alone they are not small.
    const std::vector<std::uint16_t> tiny(head_dim, 0x0001);
    const RoundTrip alone = round_trip({bits, bits}, tiny, tiny, head_dim, mean);
    CHECK(squares(alone.keys) == Approx(64 * 0x1p-48).epsilon(0.04));
    const std::vector<std::uint16_t> zeros(head_dim, 0x8000);
    CHECK(squares(round_trip({bits, bits}, zeros, zeros, head_dim, mean).values) == 0);
  }
}

TEST_CASE("values that are not finite are refused", "[codec]") {
  const std::size_t head_dim = 16;
  for (const char* name : {"k5v4", "k8v8", "f16"}) {
    const CodecPair codec = *core::parse_codec_name(name);
    std::vector<std::byte> pages(format::run_bytes(codec.key, codec.value, head_dim, 3));
    for (const std::uint16_t bad : std::initializer_list<std::uint16_t>{0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xffff}) {
      const std::vector<std::uint16_t> good(head_dim * 3, 0x3c00), mean(head_dim, 0);
      std::vector<std::uint16_t> broken = good;
      broken[2 * head_dim + 5] = bad;
      const auto keys = core::quantize_run(codec, broken, good, head_dim, {.mean = mean}, pages);
      REQUIRE_FALSE(keys.has_value());
      CHECK(keys.error().code == format::ErrorCode::kNotFinite);
      CHECK(keys.error().message == "key of position 2 of the run: dimension 5 is not a finite float16");
      const auto values = core::quantize_run(codec, good, broken, head_dim, {.mean = mean}, pages);
      REQUIRE_FALSE(values.has_value());
      CHECK(values.error().code == format::ErrorCode::kNotFinite);
      std::vector<std::uint16_t> bad_mean = mean;
      bad_mean[3] = bad;
      CHECK_FALSE(core::quantize_run(codec, good, good, head_dim, {.mean = bad_mean}, pages).has_value());
    }
  }
}

TEST_CASE("a balance is above zero and finite", "[codec]") {
  const std::vector<std::uint16_t> keys(64 * 3, 0x3c00), ones(64, 0x3c00), mean(64, 0);
  std::vector<std::byte> pages(format::run_bytes(4, 4, 64, 3));
  for (const std::uint16_t bad : std::vector<std::uint16_t>{0x0000, 0x8000, 0xbc00, 0x7c00, 0x7e00}) {
    std::vector<std::uint16_t> balance = ones;
    balance[7] = bad;
    INFO(bad);
    CHECK_FALSE(core::quantize_run({4, 4}, keys, keys, 64, {mean, balance, ones}, pages).has_value());
    const auto refused = core::quantize_run({4, 4}, keys, keys, 64, {mean, ones, balance}, pages);
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().message == "value balance of dimension 7 is not a finite float16 above zero");
  }
}

TEST_CASE("a balance moves error to where it counts less, and is undone", "[codec]") {
  constexpr std::size_t kDim = 64, kCount = 640;
  std::vector<std::uint16_t> values;
  std::uint64_t state = 5;
  for (std::size_t i = 0; i < kCount * kDim; ++i) {
    float sum = 0.0f;  // of twelve uniform numbers: near enough to normal
    for (int k = 0; k < 12; ++k) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += static_cast<float>(state >> 40) * 0x1p-24f;
    }
    values.push_back(core::float_to_float16((sum - 6.0f) * (i % kDim < 8 ? 4.0f : 1.0f)));
  }
  std::vector<float> weights(kDim, 0.1f);
  for (std::size_t d = 32; d < kDim; ++d) weights[d] = 10.0f;
  std::vector<std::uint16_t> ones(kDim, 0x3c00), balance(kDim), mean(kDim, 0);
  core::balance_of(values, {}, weights, core::kValueBalancePower, balance);
  double logarithms = 0.0;
  for (const std::uint16_t factor : balance)
    logarithms += std::log2(static_cast<double>(core::float16_to_float(factor)));
  CHECK(std::abs(logarithms) < 64 * 0x1p-10);  // geometric mean 1, float16 rounding aside
  // (w / v)^(1/4): ten over one, against .1 over sixteen: the fourth root of 1600.
  CHECK(core::float16_to_float(balance[40]) / core::float16_to_float(balance[3]) ==
        Approx(std::pow(1600.0, 0.25)).epsilon(0.06));
  const auto weighted_error = [&](std::span<const std::uint16_t> factors) {
    std::vector<std::byte> pages(format::run_bytes(3, 3, kDim, kCount));
    const core::HeadTransform transform{mean, ones, factors};
    const auto exponents = core::quantize_run({3, 3}, values, values, kDim, transform, pages);
    REQUIRE(exponents.has_value());
    std::vector<float> keys_back(values.size()), back(values.size());
    core::dequantize_run({3, 3}, *exponents, pages, kCount, kDim, transform, keys_back, back);
    double error = 0.0;
    for (std::size_t i = 0; i < values.size(); ++i)
      error += static_cast<double>(weights[i % kDim]) *
               std::pow(static_cast<double>(core::float16_to_float(values[i]) - back[i]), 2.0);
    return error;
  };
  // Error is r * sum v b^2 * sum w / b^2, over 64: with ones (8 * 16 + 56) (3.2 + 320) = 59,468; with the best balance
  // (sum of sqrt(w v))^2 = (8 * 1.265 + 24 * .316 + 32 * 3.162)^2 = 14,150.
  CHECK(weighted_error(balance) < 0.3 * weighted_error(ones));
}

TEST_CASE("a scale beyond float16 is refused", "[codec]") {
  // The difference from a mean may be twice the largest float16; a scale is about the root mean square.
  const std::vector<std::uint16_t> largest(64 * 20, 0x7bff), one(64 * 20, 0x3c00), mean(64, 0xfbff);
  std::vector<std::byte> pages(format::run_bytes(6, 6, 64, 20));
  const auto keys = core::quantize_run({6, 6}, largest, one, 64, {.mean = mean}, pages);
  REQUIRE_FALSE(keys.has_value());
  CHECK(keys.error().code == format::ErrorCode::kNotFinite);
  // Exponents of scale bytes reach further.
  const std::vector<float> exact(64 * 20, 65504.0f);
  const RoundTrip got = round_trip({5, 5}, largest, largest, 64, mean);
  CHECK(square_error(exact, got.keys) < 0.01 * squares(exact));
  CHECK(square_error(exact, got.values) < 0.01 * squares(exact));
}

}  // namespace
