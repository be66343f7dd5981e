// UTF-8 one character at a time, and the whitespace that templates trim.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace polykv::runtime {

struct Utf8Step {
  enum class Kind : std::uint8_t {
    kCharacter,   // `bytes` bytes are one character
    kInvalid,     // `bytes` bytes can never begin a character: one U+FFFD stands for them
    kUnfinished,  // all `bytes` bytes that are left may begin a character
  };
  Kind kind;
  std::uint32_t bytes;     // at least 1
  char32_t character = 0;  // of kCharacter
};

// The first character of `text`, which is not empty. Strict: no overlong forms, no surrogates, nothing above U+10FFFF.
Utf8Step next_utf8(std::string_view text);

void append_utf8(char32_t character, std::string& out);

// What Python's str.strip() takes away, which is what the templates' `trim` filter does.
bool is_trimmed_space(char32_t character);
std::string_view trim_start(std::string_view text);
std::string_view trim_end(std::string_view text);

}  // namespace polykv::runtime
