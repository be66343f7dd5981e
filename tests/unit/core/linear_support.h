// Random weight matrices of every type, for the tests of linear().
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <random>
#include <vector>

#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/weight_matrix.h"
#include "tests/support/catch.h"

namespace polykv::tests {

using core::WeightMatrix;
using core::WeightType;

inline constexpr WeightType kBlockTypes[] = {WeightType::kQ8_0, WeightType::kQ4_0, WeightType::kQ4_1};
inline constexpr WeightType kFloatTypes[] = {WeightType::kF32, WeightType::kF16, WeightType::kBF16};
inline constexpr WeightType kAllTypes[] = {WeightType::kF32,  WeightType::kF16,  WeightType::kBF16,
                                           WeightType::kQ8_0, WeightType::kQ4_0, WeightType::kQ4_1};

// A matrix in memory that ends where its data ends, so that a read past it is seen by AddressSanitizer.
class TestMatrix {
 public:
  TestMatrix(WeightType type, std::size_t num_rows, std::size_t num_cols, std::uint32_t seed, std::size_t shift = 0)
      : matrix_{nullptr, type, num_rows, num_cols}, memory_(shift + num_rows * core::weight_row_bytes(type, num_cols)) {
    matrix_.data = memory_.data() + shift;
    std::mt19937 random(seed);
    std::byte* at = memory_.data() + shift;
    if (core::weight_block_values(type) == 1) {
      for (std::size_t i = 0; i < num_rows * num_cols; ++i) at = put_float(at, type, random);
    } else {
      for (std::size_t i = 0; i < num_rows * num_cols / 32; ++i) at = put_block(at, type, random);
    }
  }

  const WeightMatrix& matrix() const { return matrix_; }

  // The minima of one row's blocks; zeros but for q4_1. What a sum's rounding is relative to (see linear_test.cpp).
  std::vector<float> minima(std::size_t row) const {
    std::vector<float> result(matrix_.num_cols / 32, 0.0f);
    if (matrix_.type != WeightType::kQ4_1) return result;
    for (std::size_t b = 0; b < result.size(); ++b) {
      std::uint16_t half;
      std::memcpy(&half, matrix_.data + row * result.size() * 20 + b * 20 + 2, sizeof half);
      result[b] = core::float16_to_float(half);
    }
    return result;
  }

 private:
  static std::byte* put_u16(std::byte* at, std::uint16_t value) {
    std::memcpy(at, &value, sizeof value);
    return at + sizeof value;
  }

  static std::byte* put_float(std::byte* at, WeightType type, std::mt19937& random) {
    const float value = std::normal_distribution<float>(0.0f, 0.05f)(random);
    if (type == WeightType::kF16) return put_u16(at, core::float_to_float16(value));
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if (type == WeightType::kBF16) return put_u16(at, static_cast<std::uint16_t>(bits >> 16));
    std::memcpy(at, &bits, sizeof bits);
    return at + sizeof bits;
  }

  // Every code is as likely; scales of both signs, as ggml writes them for q4_0.
  static std::byte* put_block(std::byte* at, WeightType type, std::mt19937& random) {
    std::normal_distribution<float> normal(0.0f, 0.01f);
    at = put_u16(at, core::float_to_float16(normal(random)));
    if (type == WeightType::kQ4_1) at = put_u16(at, core::float_to_float16(8.0f * normal(random)));
    for (std::size_t i = 0; i < (type == WeightType::kQ8_0 ? 32u : 16u); ++i) {
      *at++ = static_cast<std::byte>(random() & 0xffu);
    }
    return at;
  }

  WeightMatrix matrix_;
  std::vector<std::byte> memory_;
};

inline std::vector<float> random_values(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  // Real activations have outliers: a few values that are 50 times the others.
  for (std::size_t i = 0; i < count; i += 97) values[i] *= 50.0f;
  return values;
}

// Calls function(table) with each table that this machine has active in turn, says which ran, and restores the one
// before.
template <typename Function>
void with_each_table(const Function& function) {
  const char* before = core::active_kernels().name;
  for (const core::KernelTable* table : core::supported_kernels()) {
    REQUIRE(core::select_kernels(table->name).has_value());
    REQUIRE(&core::active_kernels() == table);
    INFO("kernels " << table->name);
    function(*table);
    std::cout << "kernels " << table->name << ": " << Catch::getResultCapture().getCurrentTestName() << "\n";
  }
  REQUIRE(core::select_kernels(before).has_value());
}

}  // namespace polykv::tests
