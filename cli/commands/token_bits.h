// How many bits each token of a pool has, and a picture of it.
#pragma once

#include <string>
#include <vector>

#include "format/reader.h"

namespace polykv::cli {

// [token], bits of a key's or value's code, the mean over heads; sinks have 16, what a head dropped 0.
std::vector<double> token_bits(const format::PoolReader& reader);

// Of a key's or value's number, scales and padding counted: bytes of pages and sinks, whatever was dropped.
double bits_per_value(const format::PoolReader& reader);

// Marks along the tokens, denser for more bits, so many tokens to each as make it fit; then what they mean.
std::string token_bits_chart(const std::vector<double>& bits);

}  // namespace polykv::cli
