// JSON from files that nobody vouches for: parsed whole, without an exception, or refused. Only .cpp files include it.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "format/status.h"

namespace polykv::runtime {

inline constexpr std::size_t kMaxJsonDepth = 64;

// One JSON object, strictly: no duplicate keys at any level (readers disagree about which one counts), at most
// kMaxJsonDepth levels. `file` is the base name for messages. Errors: kBadModelFile, with the offset of the fault.
format::Result<nlohmann::json> parse_json_object(std::span<const std::byte> text, std::string_view file);

}  // namespace polykv::runtime
