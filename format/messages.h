// Numbers as error messages show them, and messages about a value that is not the expected one.
#pragma once

#include <cstdint>
#include <string>

#include "format/status.h"

namespace polykv::format {

std::string hex_offset(std::uint64_t offset);      // 0x41000
std::string hex_checksum(std::uint64_t checksum);  // 9ae01f44c07d2b16

// "WHAT is FOUND, expected EXPECTED"; the error has both as fields of their own.
Error wrong_value(ErrorCode code, std::uint64_t offset, const std::string& what, std::string found,
                  std::string expected);
// "WHAT has FOUND bytes, expected EXPECTED".
Error wrong_bytes(ErrorCode code, std::uint64_t offset, const std::string& what, std::uint64_t found,
                  std::string expected);

}  // namespace polykv::format
