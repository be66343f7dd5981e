// The row kernels: scalar against double arithmetic, every table against scalar to the last bit.
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/kernels/rows.h"
#include "tests/support/catch.h"

using namespace polykv::core;

namespace {

constexpr std::size_t kSizes[] = {1, 7, 16, 33, 576, 1000};

std::vector<float> random_values(std::size_t size, float scale, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

}  // namespace

TEST_CASE("rms_norm, rotate and swiglu against double", "[rows]") {
  const RowKernels& rows = kRowsScalar;
  for (const std::size_t size : kSizes) {
    const auto x = random_values(size, 3.0f, 1), weight = random_values(size, 1.0f, 2);
    double sum = 0.0;
    for (const float value : x) sum += static_cast<double>(value) * static_cast<double>(value);
    const double factor = 1.0 / std::sqrt(sum / static_cast<double>(size) + 1e-5);
    std::vector<float> out(size);
    rows.rms_norm(x.data(), weight.data(), size, 1e-5f, out.data());
    for (std::size_t i = 0; i < size; ++i) {
      // Squares of one sign: at most size / 16 + 5 roundings on the way of a term, halved by the root; then a division,
      // a root and two products.
      const double exact = static_cast<double>(x[i]) * factor * static_cast<double>(weight[i]);
      CHECK(std::abs(static_cast<double>(out[i]) - exact) <=
            (static_cast<double>(size) / 32.0 + 8.0) * 0x1p-24 * std::abs(exact));
    }
    const auto gate = random_values(size, 20.0f, 3);
    rows.swiglu(gate.data(), x.data(), size, out.data());
    for (std::size_t i = 0; i < size; ++i) {
      const double g = static_cast<double>(gate[i]);
      const double exact = g / (1.0 + std::exp(-g)) * static_cast<double>(x[i]);
      // 2^-23 for the two operations after silu, and where the exponent is cut at 2^126.
      CHECK(std::abs(static_cast<double>(out[i]) - exact) <=
            (5.0 + std::abs(g)) * 0x1p-23 * std::abs(exact) + 0x1p-110);
    }
  }
  const std::vector<float> head = {1.0f, 2.0f, 3.0f, 4.0f}, cos = {0.0f, 1.0f}, sin = {1.0f, 0.0f};
  std::vector<float> turned(4);
  rows.rotate(head.data(), cos.data(), sin.data(), 2, turned.data());
  CHECK(turned == std::vector<float>{-3.0f, 2.0f, 1.0f, 4.0f});
}

TEST_CASE("silu far from zero", "[rows]") {
  const float large = std::numeric_limits<float>::max();
  const std::vector<float> gate = {large, -large, 200.0f, -200.0f, 0.0f, std::nanf("")}, up(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  kRowsScalar.swiglu(gate.data(), up.data(), gate.size(), out.data());
  CHECK(out[0] == large);
  CHECK(out[2] == 200.0f);
  CHECK(std::abs(out[3]) < 1e-30f);
  CHECK(out[4] == 0.0f);
  CHECK(std::isnan(out[5]));
}

TEST_CASE("rows become bfloat16 and float16 as one number does", "[rows]") {
  std::vector<float> values = random_values(1000, 5.0f, 4);
  for (const float special :
       {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-40f, 3.3961775e38f, 65504.0f, 65519.99f, 65520.0f, -1e30f,
        6.1035156e-5f, 6.0975552e-5f, 3e-6f, -5.9604645e-8f, 2.9802322e-8f, 1e-9f})
    values.push_back(special);
  values.push_back(std::bit_cast<float>(0x7fffffffu));  // a NaN whose bits would wrap around
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  std::vector<std::uint16_t> bfloats(values.size()), halves(values.size());
  kRowsScalar.to_bfloat16(values.data(), values.size(), bfloats.data());
  kRowsScalar.to_float16(values.data(), values.size(), halves.data());
  std::size_t num_wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    num_wrong += bfloats[i] != float_to_bfloat16(values[i]);
    num_wrong += halves[i] != float_to_float16(values[i]);
  }
  CHECK(num_wrong == 0);
}

TEST_CASE("weighted_squares against double", "[rows]") {
  for (const std::size_t size : kSizes) {
    const auto x = random_values(size, 1.0f, 1);
    const std::vector<std::vector<float>> lists = {random_values(size, 2.0f, 2), random_values(size, 3.0f, 3),
                                                   random_values(size, 1.0f, 4)};
    const float* const weights[3] = {lists[0].data(), lists[1].data(), lists[2].data()};
    std::vector<float> in_place = x;
    float sums[3];
    kRowsScalar.weighted_squares(in_place.data(), weights, size, sums);
    for (std::size_t k = 0; k < 3; ++k) {
      double exact = 0.0, magnitude = 0.0;
      for (std::size_t i = 0; i < size; ++i) {
        const double term = static_cast<double>(x[i]) * static_cast<double>(x[i]) * static_cast<double>(lists[k][i]);
        exact += term;
        magnitude += std::abs(term);
      }
      // Two products of a term, and at most size / 16 + 5 sums on its way.
      CHECK(std::abs(static_cast<double>(sums[k]) - exact) <=
            (static_cast<double>(size) / 16.0 + 8.0) * 0x1p-24 * magnitude);
    }
    for (std::size_t i = 0; i < size; ++i) CHECK(in_place[i] == x[i] * x[i] * lists[0][i]);
  }
}

TEST_CASE("row kernels give the same bits in every table", "[rows]") {
  for (const KernelTable* table : supported_kernels()) {
    INFO(table->name);
    for (const std::size_t size : kSizes) {
      const auto x = random_values(2 * size, 3.0f, 5), y = random_values(2 * size, 30.0f, 6);
      const auto same = [&](const auto& work) {
        std::vector<float> expected(2 * size), found(2 * size);
        work(kRowsScalar, expected);
        work(*table->rows, found);
        CHECK(bits_of(found) == bits_of(expected));
      };
      same([&](const RowKernels& rows, auto& out) { rows.rms_norm(x.data(), y.data(), size, 1e-6f, out.data()); });
      same([&](const RowKernels& rows, auto& out) { rows.rotate(x.data(), &y[0], &y[size], size, out.data()); });
      same([&](const RowKernels& rows, auto& out) { rows.swiglu(y.data(), x.data(), size, out.data()); });
      same([&](const RowKernels& rows, auto& out) { rows.add(x.data(), size, out.data()); });
      same([&](const RowKernels& rows, auto& out) {
        std::copy_n(x.begin(), size, out.begin());
        const float* const weights[3] = {y.data(), y.data() + size, x.data() + size};
        float sums[3];
        rows.weighted_squares(out.data(), weights, size, sums);
        std::copy_n(sums, std::min<std::size_t>(3, size), out.begin() + static_cast<std::ptrdiff_t>(size));
      });
      same([&](const RowKernels& rows, auto& out) {
        rows.to_bfloat16(y.data(), size, reinterpret_cast<std::uint16_t*>(out.data()));
        rows.to_float16(y.data(), size, reinterpret_cast<std::uint16_t*>(out.data() + size));
      });
    }
  }
}
