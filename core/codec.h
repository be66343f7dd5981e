// Quantizing a layer's keys and values into the pages of a run, and back. spec/codecs.md is the arithmetic.
//
// Bit-identical on every kernel table and thread count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "format/shape.h"
#include "format/status.h"

namespace polykv::core {

struct CodecPair {
  format::CodecId key;
  format::CodecId value;
  bool operator==(const CodecPair&) const = default;
};

// "f16", "k8v3", "k5v4", ...: any pair kAvB with A and B in 1..8. nullopt: no such name.
std::optional<CodecPair> parse_codec_name(std::string_view name);
std::string codec_name(CodecPair codec);

// The default of `build`: the best measured so far.
inline constexpr CodecPair kDefaultCodec{5, 4};

// One head's keys or values in this module are float16 bits, [num_positions][head_dim], contiguous, in position order.

// The mean over the run's keys, rounded to float16: what quantize_run subtracts. out [head_dim].
// Sums in double, in position order. num_positions may be 0: the mean is 0.
void mean_of_keys(std::span<const std::uint16_t> keys, std::size_t head_dim, std::span<std::uint16_t> out);

// What a head's keys and values go through before they are rotated, float16 bits [head_dim] each: keys become
// (key - mean) * key_balance, values value * value_balance. An empty mean is zero, an empty balance one.
struct HeadTransform {
  std::span<const std::uint16_t> mean = {};
  std::span<const std::uint16_t> key_balance = {};
  std::span<const std::uint16_t> value_balance = {};
};

// Balances make dimensions in which errors count most, and which vary least, larger before all of them share one scale:
// factor = (weight / variance) ^ power, their geometric mean 1, each within 1/16 and 16, rounded to float16. The
// variance is that of 512 to 1,023 positions, evenly spread, where there are more.
//   values   [num_positions][head_dim]; `mean` as above
//   weights  [head_dim], how much a square error in the dimension counts; not negative, of any unit
inline constexpr std::size_t kBalancePositions = 512;
inline constexpr double kKeyBalancePower = 0.15;
inline constexpr double kValueBalancePower = 0.25;
void balance_of(std::span<const std::uint16_t> values, std::span<const std::uint16_t> mean,
                std::span<const float> weights, double power, std::span<std::uint16_t> out);

// Fills `pages` (format::run_bytes long, every byte written, padding zero) and returns the exponents of their scales.
// Codecs that do not rotate take no part in the transform: k8 and f16.
// Errors: kNotFinite, if a value is not finite, a balance is not above zero, or a scale is too large to be stored.
format::Result<format::ScaleExponents> quantize_run(CodecPair codec, std::span<const std::uint16_t> keys,
                                                    std::span<const std::uint16_t> values, std::size_t head_dim,
                                                    const HeadTransform& transform, std::span<std::byte> pages);

// The inverse, for export, tests and reference: keys and values as float, [num_positions][head_dim], rotation and
// transform undone. `pages` as quantize_run made them. Values may be nonsense on hostile pages, never out of bounds.
void dequantize_run(CodecPair codec, format::ScaleExponents exponents, std::span<const std::byte> pages,
                    std::size_t num_positions, std::size_t head_dim, const HeadTransform& transform,
                    std::span<float> keys, std::span<float> values);

// The inverse for float16 pages, bit for bit: keys and values [num_positions][head_dim].
void restore_float16_run(std::span<const std::byte> pages, std::size_t head_dim, std::span<std::uint16_t> keys,
                         std::span<std::uint16_t> values);

// Checks that slots past `num_positions` and padding bytes are zero: kBadPadding, offset from the start of `pages`.
format::Status check_run_padding(CodecPair codec, std::span<const std::byte> pages, std::size_t num_positions,
                                 std::size_t head_dim);

}  // namespace polykv::core
