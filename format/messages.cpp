#include "format/messages.h"

#include <cinttypes>
#include <cstdio>
#include <utility>

namespace polykv::format {

std::string hex_offset(std::uint64_t offset) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%" PRIx64, offset);
  return text;
}

std::string hex_checksum(std::uint64_t checksum) {
  char text[24];
  std::snprintf(text, sizeof text, "%016" PRIx64, checksum);
  return text;
}

Error wrong_value(ErrorCode code, std::uint64_t offset, const std::string& what, std::string found,
                  std::string expected) {
  Error error(code, offset, what + " is " + found + ", expected " + expected);
  error.found = std::move(found);
  error.expected = std::move(expected);
  return error;
}

Error wrong_bytes(ErrorCode code, std::uint64_t offset, const std::string& what, std::uint64_t found,
                  std::string expected) {
  Error error(code, offset, what + " has " + std::to_string(found) + " bytes, expected " + expected);
  error.found = std::to_string(found);
  error.expected = std::move(expected);
  return error;
}

}  // namespace polykv::format
