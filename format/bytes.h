// Little-endian loads and stores, and checked arithmetic for sizes that come from a file.
//
// Every sum, product and rounding of file-derived integers goes through checked_*: nullopt means it does not fit 64
// bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace polykv::format {

template <typename T>
T load_le(const std::byte* bytes) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value | static_cast<T>(static_cast<T>(std::to_integer<std::uint8_t>(bytes[i])) << (8 * i)));
  }
  return value;
}

template <typename T>
void store_le(std::byte* bytes, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<std::byte>((value >> (8 * i)) & 0xff);
}

inline std::uint16_t load_le16(const std::byte* bytes) { return load_le<std::uint16_t>(bytes); }
inline std::uint32_t load_le32(const std::byte* bytes) { return load_le<std::uint32_t>(bytes); }
inline std::uint64_t load_le64(const std::byte* bytes) { return load_le<std::uint64_t>(bytes); }

inline void store_le16(std::byte* bytes, std::uint16_t value) { store_le(bytes, value); }
inline void store_le32(std::byte* bytes, std::uint32_t value) { store_le(bytes, value); }
inline void store_le64(std::byte* bytes, std::uint64_t value) { store_le(bytes, value); }

inline void append_le32(std::vector<std::byte>& out, std::uint32_t value) {
  out.resize(out.size() + 4);
  store_le32(out.data() + out.size() - 4, value);
}

inline void append_le64(std::vector<std::byte>& out, std::uint64_t value) {
  out.resize(out.size() + 8);
  store_le64(out.data() + out.size() - 8, value);
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline void append_bytes(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

inline std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

inline std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// The least multiple of `alignment`, a power of two, that is not below `value`.
inline std::optional<std::uint64_t> checked_align(std::uint64_t value, std::uint64_t alignment) {
  const std::optional<std::uint64_t> raised = checked_add(value, alignment - 1);
  if (!raised) return std::nullopt;
  return *raised & ~(alignment - 1);
}

// Index of the first byte that is not zero, or bytes.size().
inline std::size_t find_nonzero(std::span<const std::byte> bytes) {
  std::size_t i = 0;
  while (i < bytes.size() && bytes[i] == std::byte{0}) ++i;
  return i;
}

}  // namespace polykv::format
