// Numbers as error messages show them.
#pragma once

#include <cstdint>
#include <string>

namespace polykv::format {

std::string hex_offset(std::uint64_t offset);      // 0x41000
std::string hex_checksum(std::uint64_t checksum);  // 9ae01f44c07d2b16

}  // namespace polykv::format
