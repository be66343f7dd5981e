#include "core/weight_matrix.h"

#include <bit>
#include <cstring>

#include "core/float16.h"

namespace polykv::core {

static_assert(std::endian::native == std::endian::little, "model files are little-endian and are used in place");

namespace {

struct TypeInfo {
  const char* name;
  std::size_t block_values;
  std::size_t block_bytes;
};

TypeInfo type_info(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return {"F32", 1, 4};
    case WeightType::kF16:
      return {"F16", 1, 2};
    case WeightType::kBF16:
      return {"BF16", 1, 2};
    case WeightType::kQ8_0:
      return {"Q8_0", 32, 34};
    case WeightType::kQ4_0:
      return {"Q4_0", 32, 18};
    case WeightType::kQ4_1:
      return {"Q4_1", 32, 20};
  }
  return {"?", 1, 0};
}

std::uint16_t load_u16(const std::byte* at) {
  std::uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// A code times a scale is exact in float (8 + 11 bits), so only the minimum's addition rounds.
void dequantize_q8_0(const std::byte* block, float* out) {
  const float scale = float16_to_float(load_u16(block));
  for (std::size_t i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(std::to_integer<std::int8_t>(block[2 + i]));
}

void dequantize_q4_0(const std::byte* block, float* out) {
  const float scale = float16_to_float(load_u16(block));
  for (std::size_t i = 0; i < 16; ++i) {
    const int byte = std::to_integer<int>(block[2 + i]);
    out[i] = scale * static_cast<float>((byte & 15) - 8);
    out[16 + i] = scale * static_cast<float>((byte >> 4) - 8);
  }
}

void dequantize_q4_1(const std::byte* block, float* out) {
  const float scale = float16_to_float(load_u16(block));
  const float minimum = float16_to_float(load_u16(block + 2));
  for (std::size_t i = 0; i < 16; ++i) {
    const int byte = std::to_integer<int>(block[4 + i]);
    out[i] = scale * static_cast<float>(byte & 15) + minimum;
    out[16 + i] = scale * static_cast<float>(byte >> 4) + minimum;
  }
}

}  // namespace

const char* weight_type_name(WeightType type) { return type_info(type).name; }

std::size_t weight_block_values(WeightType type) { return type_info(type).block_values; }

std::size_t weight_row_bytes(WeightType type, std::size_t num_cols) {
  const TypeInfo info = type_info(type);
  return num_cols / info.block_values * info.block_bytes;
}

void dequantize_row(const WeightMatrix& matrix, std::size_t row, std::span<float> out) {
  const std::byte* at = matrix.data + row * weight_row_bytes(matrix.type, matrix.num_cols);
  const std::size_t num_cols = matrix.num_cols;
  switch (matrix.type) {
    case WeightType::kF32:
      std::memcpy(out.data(), at, num_cols * sizeof(float));
      return;
    case WeightType::kF16:
      for (std::size_t i = 0; i < num_cols; ++i) out[i] = float16_to_float(load_u16(at + 2 * i));
      return;
    case WeightType::kBF16:
      for (std::size_t i = 0; i < num_cols; ++i) out[i] = bfloat16_to_float(load_u16(at + 2 * i));
      return;
    case WeightType::kQ8_0:
      for (std::size_t i = 0; i < num_cols; i += 32, at += 34) dequantize_q8_0(at, &out[i]);
      return;
    case WeightType::kQ4_0:
      for (std::size_t i = 0; i < num_cols; i += 32, at += 18) dequantize_q4_0(at, &out[i]);
      return;
    case WeightType::kQ4_1:
      for (std::size_t i = 0; i < num_cols; i += 32, at += 20) dequantize_q4_1(at, &out[i]);
      return;
  }
}

std::vector<float> dequantize_vector(const WeightMatrix& vector) {
  std::vector<float> values(vector.num_cols);
  if (vector) dequantize_row(vector, 0, values);
  return values;
}

}  // namespace polykv::core
