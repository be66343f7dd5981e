// The shape of a KV cache, and the codecs its pages may use.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polykv::format {

// keys and values are each [num_layers][num_kv_heads][num_tokens][head_dim].
struct KvShape {
  std::uint32_t num_layers = 0;
  std::uint32_t num_kv_heads = 0;
  std::uint32_t head_dim = 0;    // a multiple of 8, at most kMaxHeadDim
  std::uint32_t num_tokens = 0;  // positions of this pool, kept or not

  bool operator==(const KvShape&) const = default;
};

inline constexpr std::uint32_t kMaxLayers = 1024;
inline constexpr std::uint32_t kMaxKvHeads = 1024;
inline constexpr std::uint32_t kMaxHeadDim = 512;
inline constexpr std::uint32_t kMaxTokens = 1u << 30;

// The first positions of the whole chain are kept raw, in a section of their own; every policy keeps them.
inline constexpr std::uint32_t kNumSinks = 4;

inline constexpr std::uint32_t kTileTokens = 16;  // unit of padding in a page
inline constexpr std::uint32_t kPageTokens = 64;

// A codec's number is its bits per code; 16 is float16. Which arithmetic a number means is in spec/codecs.md and
// differs between keys and values (key codec 8 is q8_0).
using CodecId = std::uint8_t;
inline constexpr CodecId kCodecF16 = 16;

constexpr bool known_key_codec(CodecId id) { return (id >= 1 && id <= 8) || id == kCodecF16; }
constexpr bool known_value_codec(CodecId id) { return (id >= 1 && id <= 8) || id == kCodecF16; }

// Trellis codes, whose scales are bytes with an exponent common to a run (spec/codecs.md, "Scales").
constexpr bool is_trellis_codec(CodecId id) { return id >= 1 && id <= 5; }

// The exponents of a run's scales; 0 where the codec has none.
struct ScaleExponents {
  std::int8_t key = 0;
  std::int8_t value = 0;
  bool operator==(const ScaleExponents&) const = default;
};
inline constexpr int kMinScaleExponent = -64;
inline constexpr int kMaxScaleExponent = 63;

// The section of means has so many vectors a head: the mean of its keys, then the balances of keys and of values
// (spec/codecs.md, "Balances").
inline constexpr std::size_t kMeanVectors = 3;

// True where the mean over the run's keys is removed before quantizing (spec/codecs.md, "means").
constexpr bool key_codec_removes_mean(CodecId id) { return id >= 1 && id <= 7; }

}  // namespace polykv::format
