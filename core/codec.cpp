#include "core/codec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/kernels/trellis_quantizer.h"
#include "core/page_tiles.h"
#include "core/quantize_tile.h"
#include "core/rotation.h"
#include "core/tile_codes.h"
#include "core/trellis.h"
#include "format/bytes.h"
#include "format/page_layout.h"

namespace polykv::core {
namespace {

using format::CodecId;
using format::kCodecF16;

// Working memory of one tile; every array is [dim][16 positions] but `slots`, which is in the order of the page, and
// the scales, [row][16 positions].
struct TileBuffers {
  alignas(64) std::array<float, format::kMaxHeadDim * kTileLanes> values;
  alignas(64) std::array<std::uint8_t, format::kMaxHeadDim * kTileLanes> codes;
  alignas(64) std::array<std::uint8_t, format::kMaxHeadDim * kTileLanes> slots;
  std::array<std::uint16_t, format::kMaxHeadDim / 32 * kTileLanes> float16_scales;
  std::array<float, format::kMaxHeadDim / 32 * kTileLanes> scales;
};

// A side's part of the transform, as float.
struct Frame {
  std::array<float, format::kMaxHeadDim> mean, balance;
};

void to_float(std::span<const std::uint16_t> from, float otherwise, std::array<float, format::kMaxHeadDim>& to) {
  to.fill(otherwise);
  std::transform(from.begin(), from.end(), to.begin(), float16_to_float);
}

Frame key_frame(CodecId codec, const HeadTransform& transform) {
  const bool used = format::key_codec_removes_mean(codec);
  Frame frame;
  to_float(used ? transform.mean : std::span<const std::uint16_t>(), 0.0f, frame.mean);
  to_float(used ? transform.key_balance : std::span<const std::uint16_t>(), 1.0f, frame.balance);
  return frame;
}

Frame value_frame(const HeadTransform& transform) {
  Frame frame;
  frame.mean.fill(0.0f);
  to_float(transform.value_balance, 1.0f, frame.balance);
  return frame;
}

format::Status check_finite(std::span<const std::uint16_t> values, std::size_t head_dim, const char* what) {
  std::uint16_t largest = 0;  // a plain maximum vectorizes; the place is looked for only where there is one
  for (const std::uint16_t value : values) largest = std::max(largest, static_cast<std::uint16_t>(value & 0x7fff));
  if (largest < 0x7c00) return {};
  const auto bad = std::find_if(values.begin(), values.end(), [](std::uint16_t v) { return (v & 0x7fff) >= 0x7c00; });
  const std::size_t index = static_cast<std::size_t>(bad - values.begin());
  return format::Error(format::ErrorCode::kNotFinite,
                       std::string(what) + " of position " + std::to_string(index / head_dim) +
                           " of the run: dimension " + std::to_string(index % head_dim) + " is not a finite float16");
}

format::Status check_balance(std::span<const std::uint16_t> balance, const char* what) {
  const auto bad = std::find_if(balance.begin(), balance.end(), [](std::uint16_t v) { return v == 0 || v >= 0x7c00; });
  if (bad == balance.end()) return {};
  return format::Error(format::ErrorCode::kNotFinite, std::string(what) + " balance of dimension " +
                                                          std::to_string(bad - balance.begin()) +
                                                          " is not a finite float16 above zero");
}

// values [num_positions][head_dim] -> tile [head_dim][16], transformed, unused positions zero.
void load_tile(std::span<const std::uint16_t> values, std::size_t head_dim, const Frame& frame, float* tile) {
  const std::size_t num_positions = values.size() / head_dim;
  if (num_positions < kTileLanes) std::fill_n(tile, head_dim * kTileLanes, 0.0f);
  std::array<float, format::kMaxHeadDim> row;
  for (std::size_t position = 0; position < num_positions; ++position) {
    const std::uint16_t* source = values.data() + position * head_dim;
    for (std::size_t d = 0; d < head_dim; ++d) row[d] = float16_to_float(source[d]);
    for (std::size_t d = 0; d < head_dim; ++d) row[d] = (row[d] - frame.mean[d]) * frame.balance[d];
    for (std::size_t d = 0; d < head_dim; ++d) tile[d * kTileLanes + position] = row[d];
  }
}

// codes [head_dim][16] -> the order of a key or value tile; padded dimensions are zero.
void order_codes(const TileKind& kind, const std::uint8_t* codes, std::uint8_t* slots) {
  if (kind.is_key) {
    for (std::size_t d = 0; d < kind.head_dim; d += 4)
      for (std::size_t position = 0; position < kTileLanes; ++position)
        for (std::size_t i = 0; i < 4; ++i)
          slots[d * kTileLanes + position * 4 + i] = codes[(d + i) * kTileLanes + position];
    return;
  }
  std::memset(slots, 0, kind.width * kTileLanes);
  for (std::size_t position = 0; position < kTileLanes; position += 4)
    for (std::size_t d = 0; d < kind.head_dim; ++d)
      std::memcpy(slots + value_slot(position, d, kind.width), codes + d * kTileLanes + position, 4);
}

void unorder_codes(const TileKind& kind, const std::uint8_t* slots, std::uint8_t* codes) {
  for (std::size_t d = 0; d < kind.head_dim; ++d)
    for (std::size_t position = 0; position < kTileLanes; ++position)
      codes[d * kTileLanes + position] =
          slots[kind.is_key ? key_slot(position, d) : value_slot(position, d, kind.width)];
}

void store_float16_tile(const TileKind& kind, std::span<const std::uint16_t> values, std::byte* codes) {
  std::memset(codes, 0, kind.tile_bytes);
  const std::size_t num_positions = values.size() / kind.head_dim;
  for (std::size_t position = 0; position < num_positions; ++position)
    for (std::size_t d = 0; d < kind.head_dim; ++d)
      format::store_le16(codes + kind.float16_offset(position, d), values[position * kind.head_dim + d]);
}

void restore_float16_tile(const TileKind& kind, const std::byte* codes, std::span<std::uint16_t> values) {
  const std::size_t num_positions = values.size() / kind.head_dim;
  for (std::size_t position = 0; position < num_positions; ++position)
    for (std::size_t d = 0; d < kind.head_dim; ++d)
      values[position * kind.head_dim + d] = format::load_le16(codes + kind.float16_offset(position, d));
}

// Zeros in place of the codes of some positions of a tile that is packed.
void clear_codes(const TileKind& kind, const std::array<bool, kTileLanes>& positions, std::byte* codes,
                 TileBuffers& buffers) {
  unpack_codes(kind.codec, codes, kind.width / 4, buffers.slots.data());
  for (std::size_t position = 0; position < kTileLanes; ++position) {
    if (!positions[position]) continue;
    for (std::size_t d = 0; d < kind.head_dim; ++d)
      buffers.slots[kind.is_key ? key_slot(position, d) : value_slot(position, d, kind.width)] = 0;
  }
  pack_codes(kind.codec, buffers.slots.data(), kind.width / 4, codes);
}

// One tile of keys or values, 1 to 16 positions. Of trellis codecs all but the scales, which need the exponent of the
// run: they go to `scales`, [16]. False: a scale does not fit float16.
bool quantize_tile(const TileKind& kind, std::span<const std::uint16_t> values, const Frame& frame,
                   const TileBytes<std::byte>& out, float* scales, TileBuffers& buffers) {
  if (kind.codec == kCodecF16) {
    store_float16_tile(kind, values, out.codes);
    return true;
  }
  load_tile(values, kind.head_dim, frame, buffers.values.data());
  bool finite = true;
  if (kind.is_trellis()) {
    rotate_16(std::span(buffers.values).first(kind.head_dim * kTileLanes));
    active_kernels().trellis->quantize(kind.codec, kind.is_key ? ScaleRule::kNorm : ScaleRule::kProjection,
                                       buffers.values.data(), kind.head_dim, buffers.codes.data(), scales);
  } else {
    if (kind.is_q8())
      quantize_q8_tile(buffers.values.data(), kind.head_dim, buffers.codes.data(), buffers.float16_scales.data());
    else
      quantize_rotated_tile(kind.codec, buffers.values.data(), kind.head_dim, buffers.codes.data(),
                            buffers.float16_scales.data());
    for (std::size_t i = 0; i < kind.scale_rows * kTileLanes; ++i) {
      finite &= (buffers.float16_scales[i] & 0x7fff) < 0x7c00;
      format::store_le16(out.scales + i * 2, buffers.float16_scales[i]);
    }
  }
  order_codes(kind, buffers.codes.data(), buffers.slots.data());
  pack_codes(kind.codec, buffers.slots.data(), kind.width / 4, out.codes);
  return finite;
}

// The inverse; out [num_positions][head_dim].
void dequantize_tile(const TileKind& kind, int exponent, const TileBytes<const std::byte>& in, const Frame& frame,
                     TileBuffers& buffers, std::span<float> out) {
  const std::size_t head_dim = kind.head_dim, num_positions = out.size() / head_dim;
  if (kind.codec == kCodecF16) {
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = float16_to_float(format::load_le16(in.codes + kind.float16_offset(i / head_dim, i % head_dim)));
    return;
  }
  for (std::size_t i = 0; i < kind.scale_rows * kTileLanes; ++i)
    buffers.scales[i] = kind.is_trellis() ? byte_to_scale(std::to_integer<std::uint8_t>(in.scales[i]), exponent)
                                          : float16_to_float(format::load_le16(in.scales + i * 2));
  unpack_codes(kind.codec, in.codes, kind.width / 4, buffers.slots.data());
  unorder_codes(kind, buffers.slots.data(), buffers.codes.data());
  if (kind.is_q8())
    dequantize_q8_tile(buffers.codes.data(), buffers.scales.data(), head_dim, buffers.values.data());
  else
    dequantize_rotated_tile(kind.codec, buffers.codes.data(), buffers.scales.data(), head_dim, buffers.values.data());
  for (std::size_t position = 0; position < num_positions; ++position)
    for (std::size_t d = 0; d < head_dim; ++d)
      out[position * head_dim + d] = buffers.values[d * kTileLanes + position] / frame.balance[d] + frame.mean[d];
}

// The keys or the values of a run that is quantized.
struct Side {
  TileKind kind;
  const char* name;
  std::span<const std::uint16_t> values;
  const Frame& frame;
  std::vector<float> scales;  // of trellis codecs: [positions, whole tiles]

  Side(const TileKind& its_kind, const char* its_name, std::span<const std::uint16_t> its_values,
       const Frame& its_frame)
      : kind(its_kind), name(its_name), values(its_values), frame(its_frame) {
    const std::size_t num_positions = values.size() / kind.head_dim;
    if (kind.is_trellis()) scales.resize((num_positions + kTileLanes - 1) / kTileLanes * kTileLanes);
  }
};

format::Status quantize_tile_of(Side& side, const PageWalk<std::byte>& walk, std::size_t tile, TileBuffers& buffers) {
  const std::size_t first = walk.first_position() + tile * kTileLanes, head_dim = side.kind.head_dim;
  const auto values = side.values.subspan(first * head_dim, walk.tile_positions(tile) * head_dim);
  float* scales = side.scales.empty() ? nullptr : side.scales.data() + first;
  if (quantize_tile(side.kind, values, side.frame, walk.tile(side.kind, tile), scales, buffers)) return {};
  return format::Error(format::ErrorCode::kNotFinite, std::string(side.name) + " of the tile at position " +
                                                          std::to_string(first) +
                                                          " of the run: a scale is too large for float16");
}

// The scales of a trellis codec, now that all of the run are known. A scale that becomes 0 takes its codes with it.
void store_scales(const Side& side, int exponent, PageWalk<std::byte> walk, TileBuffers& buffers) {
  for (; !walk.done(); walk.next()) {
    for (std::size_t tile = 0; tile < walk.layout().num_tiles; ++tile) {
      const TileBytes<std::byte> out = walk.tile(side.kind, tile);
      const float* scales = side.scales.data() + walk.first_position() + tile * kTileLanes;
      std::array<bool, kTileLanes> vanished;
      for (std::size_t i = 0; i < kTileLanes; ++i) {
        const std::uint8_t byte = scale_to_byte(scales[i], exponent);
        out.scales[i] = std::byte{byte};
        vanished[i] = byte == 0 && scales[i] > 0.0f;
      }
      if (std::find(vanished.begin(), vanished.end(), true) != vanished.end())
        clear_codes(side.kind, vanished, out.codes, buffers);
    }
  }
}

format::Result<std::int8_t> finish_scales(const Side& side, const PageWalk<std::byte>& walk, TileBuffers& buffers) {
  if (side.scales.empty()) return std::int8_t{0};
  const std::optional<std::int8_t> exponent = scale_exponent(*std::max_element(side.scales.begin(), side.scales.end()));
  if (!exponent)
    return format::Error(format::ErrorCode::kNotFinite, std::string(side.name) + " of the run: a scale is too large");
  store_scales(side, *exponent, walk, buffers);
  return *exponent;
}

}  // namespace

std::optional<CodecPair> parse_codec_name(std::string_view name) {
  if (name == "f16") return CodecPair{kCodecF16, kCodecF16};
  const auto is_bits = [](char c) { return c >= '1' && c <= '8'; };
  if (name.size() != 4 || name[0] != 'k' || !is_bits(name[1]) || name[2] != 'v' || !is_bits(name[3]))
    return std::nullopt;
  return CodecPair{static_cast<CodecId>(name[1] - '0'), static_cast<CodecId>(name[3] - '0')};
}

std::string codec_name(CodecPair codec) {
  if (codec == CodecPair{kCodecF16, kCodecF16}) return "f16";
  std::string name = "k";
  name += std::to_string(codec.key);
  name += "v";
  name += std::to_string(codec.value);
  return name;
}

void mean_of_keys(std::span<const std::uint16_t> keys, std::size_t head_dim, std::span<std::uint16_t> out) {
  std::array<double, format::kMaxHeadDim> sums{};
  const std::size_t num_positions = keys.size() / head_dim;
  for (std::size_t position = 0; position < num_positions; ++position)
    for (std::size_t d = 0; d < head_dim; ++d) sums[d] += double{float16_to_float(keys[position * head_dim + d])};
  for (std::size_t d = 0; d < head_dim; ++d) {
    const double mean = num_positions == 0 ? 0.0 : sums[d] / static_cast<double>(num_positions);
    out[d] = float_to_float16(static_cast<float>(mean));
  }
}

void balance_of(std::span<const std::uint16_t> values, std::span<const std::uint16_t> mean,
                std::span<const float> weights, double power, std::span<std::uint16_t> out) {
  const std::size_t head_dim = out.size(), num_positions = values.size() / head_dim;
  const std::size_t step = std::max<std::size_t>(1, num_positions / kBalancePositions);
  std::array<double, format::kMaxHeadDim> variance{}, logarithm{};
  std::array<float, format::kMaxHeadDim> centre;
  to_float(mean, 0.0f, centre);
  for (std::size_t position = 0; position < num_positions; position += step) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      const double x = double{float16_to_float(values[position * head_dim + d]) - centre[d]};
      variance[d] += x * x * static_cast<double>(step) / static_cast<double>(num_positions);
    }
  }
  // A thousandth of the average keeps a dimension that is always zero, or never asked for, within bounds.
  double variance_sum = 0.0, weight_sum = 0.0, sum = 0.0;
  for (std::size_t d = 0; d < head_dim; ++d) variance_sum += variance[d], weight_sum += double{weights[d]};
  const double least_variance = 0.001 * variance_sum / static_cast<double>(head_dim);
  const double least_weight = 0.001 * weight_sum / static_cast<double>(head_dim);
  for (std::size_t d = 0; d < head_dim; ++d) {
    const double ratio = (double{weights[d]} + least_weight) / (variance[d] + least_variance);
    logarithm[d] = ratio > 0.0 && std::isfinite(ratio) ? power * std::log2(ratio) : 0.0;
    sum += logarithm[d];
  }
  for (std::size_t d = 0; d < head_dim; ++d) {
    const double centred = logarithm[d] - sum / static_cast<double>(head_dim);
    out[d] = float_to_float16(static_cast<float>(std::exp2(std::clamp(centred, -4.0, 4.0))));
  }
}

format::Result<format::ScaleExponents> quantize_run(CodecPair codec, std::span<const std::uint16_t> keys,
                                                    std::span<const std::uint16_t> values, std::size_t head_dim,
                                                    const HeadTransform& transform, std::span<std::byte> pages) {
  POLYKV_CHECK_STATUS(check_finite(keys, head_dim, "key"));
  POLYKV_CHECK_STATUS(check_finite(values, head_dim, "value"));
  POLYKV_CHECK_STATUS(check_finite(transform.mean, head_dim, "mean"));
  POLYKV_CHECK_STATUS(check_balance(transform.key_balance, "key"));
  POLYKV_CHECK_STATUS(check_balance(transform.value_balance, "value"));
  const Frame keys_frame = key_frame(codec.key, transform), values_frame = value_frame(transform);
  Side key_side(TileKind::keys(codec.key, head_dim), "keys", keys, keys_frame);
  Side value_side(TileKind::values(codec.value, head_dim), "values", values, values_frame);
  const PageWalk first_page(codec, pages, keys.size() / head_dim, head_dim);
  TileBuffers buffers;
  for (PageWalk walk = first_page; !walk.done(); walk.next()) {
    for (std::size_t tile = 0; tile < walk.layout().num_tiles; ++tile) {
      POLYKV_CHECK_STATUS(quantize_tile_of(key_side, walk, tile, buffers));
      POLYKV_CHECK_STATUS(quantize_tile_of(value_side, walk, tile, buffers));
    }
    std::fill(walk.padding().begin(), walk.padding().end(), std::byte{0});
  }
  format::ScaleExponents exponents;
  POLYKV_TRY(exponents.key, finish_scales(key_side, first_page, buffers));
  POLYKV_TRY(exponents.value, finish_scales(value_side, first_page, buffers));
  return exponents;
}

void dequantize_run(CodecPair codec, format::ScaleExponents exponents, std::span<const std::byte> pages,
                    std::size_t num_positions, std::size_t head_dim, const HeadTransform& transform,
                    std::span<float> keys, std::span<float> values) {
  const Frame keys_frame = key_frame(codec.key, transform), values_frame = value_frame(transform);
  const TileKind key_kind = TileKind::keys(codec.key, head_dim), value_kind = TileKind::values(codec.value, head_dim);
  TileBuffers buffers;
  for (PageWalk walk(codec, pages, num_positions, head_dim); !walk.done(); walk.next()) {
    for (std::size_t tile = 0; tile < walk.layout().num_tiles; ++tile) {
      const std::size_t begin = (walk.first_position() + tile * kTileLanes) * head_dim;
      const std::size_t size = walk.tile_positions(tile) * head_dim;
      dequantize_tile(key_kind, exponents.key, walk.keys(tile), keys_frame, buffers, keys.subspan(begin, size));
      dequantize_tile(value_kind, exponents.value, walk.values(tile), values_frame, buffers,
                      values.subspan(begin, size));
    }
  }
}

void restore_float16_run(std::span<const std::byte> pages, std::size_t head_dim, std::span<std::uint16_t> keys,
                         std::span<std::uint16_t> values) {
  const TileKind key_kind = TileKind::keys(kCodecF16, head_dim), value_kind = TileKind::values(kCodecF16, head_dim);
  for (PageWalk walk({kCodecF16, kCodecF16}, pages, keys.size() / head_dim, head_dim); !walk.done(); walk.next()) {
    for (std::size_t tile = 0; tile < walk.layout().num_tiles; ++tile) {
      const std::size_t begin = (walk.first_position() + tile * kTileLanes) * head_dim;
      const std::size_t size = walk.tile_positions(tile) * head_dim;
      restore_float16_tile(key_kind, walk.keys(tile).codes, keys.subspan(begin, size));
      restore_float16_tile(value_kind, walk.values(tile).codes, values.subspan(begin, size));
    }
  }
}

}  // namespace polykv::core
