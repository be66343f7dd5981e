#include "format/page_layout.h"

namespace polykv::format {
namespace {

std::size_t key_scale_rows(CodecId codec, std::size_t head_dim) {
  if (codec == kCodecF16) return 0;
  return codec == 8 ? (head_dim + 31) / 32 : 1;
}

std::size_t scale_bytes(CodecId codec, std::size_t rows) {
  return rows * kTileTokens * (is_trellis_codec(codec) ? 1 : 2);
}

// 16 positions of `width` values, `codec` bits each.
std::size_t tile_bytes(CodecId codec, std::size_t width) { return kTileTokens * width * codec / 8; }

}  // namespace

PageLayout page_layout(CodecId key_codec, CodecId value_codec, std::size_t head_dim, std::size_t num_positions) {
  PageLayout layout{};
  layout.num_tiles = (num_positions + kTileTokens - 1) / kTileTokens;
  layout.key_scale_rows = key_scale_rows(key_codec, head_dim);
  layout.value_scale_rows = value_codec == kCodecF16 ? 0 : 1;
  layout.key_tile_bytes = tile_bytes(key_codec, head_dim);
  layout.value_tile_bytes = tile_bytes(value_codec, padded_value_dim(head_dim));
  layout.key_scale_bytes = scale_bytes(key_codec, layout.key_scale_rows);
  layout.value_scale_bytes = scale_bytes(value_codec, layout.value_scale_rows);
  layout.key_scales_offset = 0;
  layout.value_scales_offset = layout.num_tiles * layout.key_scale_bytes;
  layout.keys_offset = layout.value_scales_offset + layout.num_tiles * layout.value_scale_bytes;
  layout.values_offset = layout.keys_offset + layout.num_tiles * layout.key_tile_bytes;
  layout.bytes = (layout.values_offset + layout.num_tiles * layout.value_tile_bytes + 63) / 64 * 64;
  return layout;
}

std::size_t run_bytes(CodecId key_codec, CodecId value_codec, std::size_t head_dim, std::size_t num_positions) {
  const std::size_t full = num_positions / kPageTokens;
  const std::size_t rest = num_positions % kPageTokens;
  std::size_t bytes = full * page_layout(key_codec, value_codec, head_dim, kPageTokens).bytes;
  if (rest > 0) bytes += page_layout(key_codec, value_codec, head_dim, rest).bytes;
  return bytes;
}

}  // namespace polykv::format
