#include "format/messages.h"

#include <cinttypes>
#include <cstdio>

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

}  // namespace polykv::format
