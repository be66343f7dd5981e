// What the fidelity program prints.
#pragma once

#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "tests/eval/fidelity/protocol.h"

namespace polykv::eval {

struct Setting {
  std::string model, text, prefill, kernels, reference;
  std::size_t prefix_tokens, scored_tokens;  // of each window
  std::vector<std::size_t> offsets;          // of each window, in tokens
};

// As snprintf, up to 511 bytes.
template <typename... Values>
std::string formatted(const char* format, Values... values) {
  char line[512];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

// A line a codec, under a heading.
std::string as_text(const Setting& setting, std::span<const Measured> all);

// Schema polykv.fidelity/1; with `positions`, the divergence of each position too.
std::string as_json(const Setting& setting, std::span<const Measured> all, bool positions);

}  // namespace polykv::eval
