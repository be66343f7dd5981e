// Strict UTF-8: no overlong form, no surrogate, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <string_view>

namespace polykv::format {

// Index of the first byte that does not begin or continue a valid character; text.size() if all is valid.
std::size_t first_invalid_utf8(std::string_view text);

}  // namespace polykv::format
