#include "cli/runtime/safetensors_writer.h"

#include <bit>
#include <nlohmann/json.hpp>

#include "core/float16.h"

namespace polykv::runtime {
namespace {

std::uint64_t dtype_bytes(const std::string& dtype) { return dtype == "I64" ? 8 : dtype == "F32" ? 4 : 2; }

}  // namespace

const char* number_format_name(NumberFormat number) { return number == NumberFormat::kF16 ? "F16" : "F32"; }

SafetensorsHeader make_safetensors_header(std::span<const TensorInfo> tensors,
                                          const std::map<std::string, std::string>& metadata) {
  SafetensorsHeader header;
  nlohmann::ordered_json json = {{"__metadata__", metadata}};
  for (const TensorInfo& tensor : tensors) {
    std::uint64_t bytes = dtype_bytes(tensor.dtype);
    for (const std::uint64_t count : tensor.shape) bytes *= count;
    json[tensor.name] = {{"dtype", tensor.dtype},
                         {"shape", tensor.shape},
                         {"data_offsets", {header.data_bytes, header.data_bytes + bytes}}};
    header.data_bytes += bytes;
  }
  std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');
  for (std::size_t i = 0; i < 8; ++i) header.text += static_cast<char>(text.size() >> (8 * i) & 0xff);
  header.text += text;
  return header;
}

std::vector<std::byte> serialize_numbers(std::span<const float> values, NumberFormat number) {
  const std::size_t width = number == NumberFormat::kF16 ? 2 : 4;
  std::vector<std::byte> bytes(values.size() * width);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint32_t bits =
        number == NumberFormat::kF16 ? core::float_to_float16(values[i]) : std::bit_cast<std::uint32_t>(values[i]);
    for (std::size_t b = 0; b < width; ++b) bytes[i * width + b] = static_cast<std::byte>(bits >> (8 * b));
  }
  return bytes;
}

}  // namespace polykv::runtime
