// The header of a safetensors file, and numbers as it stores them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace polykv::runtime {

enum class NumberFormat : std::uint8_t { kF16, kF32 };
const char* number_format_name(NumberFormat number);  // "F16", "F32"

struct TensorInfo {
  std::string name;
  std::string dtype;  // "I64", "F32", "F16"
  std::vector<std::uint64_t> shape;
};

struct SafetensorsHeader {
  std::string text;              // length, JSON, spaces up to a multiple of 8: the first bytes of the file
  std::uint64_t data_bytes = 0;  // of all tensors, which follow in the order given, without gaps
};

// Shapes are ours, not a file's: their products do not overflow.
SafetensorsHeader make_safetensors_header(std::span<const TensorInfo> tensors,
                                          const std::map<std::string, std::string>& metadata);

// Little-endian; float16 rounds to nearest even.
std::vector<std::byte> serialize_numbers(std::span<const float> values, NumberFormat number);

}  // namespace polykv::runtime
