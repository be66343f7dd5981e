#include "core/weight_matrix.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "tests/support/catch.h"

using namespace polykv::core;

namespace {

#include "tests/unit/core/weight_vectors.inc"

struct Vector {
  WeightType type;
  const char* name;
  std::span<const std::uint8_t> stored;
  std::span<const std::uint32_t> value_bits;
};

const Vector kVectors[] = {
    {WeightType::kF32, "F32", kF32Stored, kF32ValueBits},     {WeightType::kF16, "F16", kF16Stored, kF16ValueBits},
    {WeightType::kBF16, "BF16", kBF16Stored, kBF16ValueBits}, {WeightType::kQ8_0, "Q8_0", kQ8_0Stored, kQ8_0ValueBits},
    {WeightType::kQ4_0, "Q4_0", kQ4_0Stored, kQ4_0ValueBits}, {WeightType::kQ4_1, "Q4_1", kQ4_1Stored, kQ4_1ValueBits},
};

}  // namespace

TEST_CASE("dequantized rows are ggml's, bit for bit", "[weight_matrix]") {
  for (const Vector& vector : kVectors) {
    INFO(vector.name);
    const std::size_t num_cols = vector.value_bits.size();
    REQUIRE(weight_type_name(vector.type) == std::string(vector.name));
    REQUIRE(weight_row_bytes(vector.type, num_cols) == vector.stored.size());
    for (const std::size_t shift : {0, 1, 2, 3}) {
      // Two rows, the second one the vector's, at an address of any alignment.
      std::vector<std::byte> memory(shift + 2 * vector.stored.size(), std::byte{0x5a});
      std::memcpy(memory.data() + shift + vector.stored.size(), vector.stored.data(), vector.stored.size());
      const WeightMatrix matrix{memory.data() + shift, vector.type, 2, num_cols};
      std::vector<float> out(num_cols);
      dequantize_row(matrix, 1, out);
      for (std::size_t i = 0; i < num_cols; ++i) {
        INFO("value " << i);
        REQUIRE(std::bit_cast<std::uint32_t>(out[i]) == vector.value_bits[i]);
      }
    }
  }
}

TEST_CASE("a block's size is what the formats say", "[weight_matrix]") {
  CHECK(weight_block_values(WeightType::kF16) == 1);
  CHECK(weight_block_values(WeightType::kQ4_1) == 32);
  CHECK(weight_row_bytes(WeightType::kF32, 3) == 12);
  CHECK(weight_row_bytes(WeightType::kBF16, 7) == 14);
  CHECK(weight_row_bytes(WeightType::kQ8_0, 64) == 68);
  CHECK(weight_row_bytes(WeightType::kQ4_0, 64) == 36);
  CHECK(weight_row_bytes(WeightType::kQ4_1, 64) == 40);
}

TEST_CASE("a matrix without data is absent", "[weight_matrix]") {
  CHECK_FALSE(WeightMatrix{});
  const std::byte byte{};
  CHECK(WeightMatrix{&byte, WeightType::kF32, 1, 0});
}
