// check_run_padding: unused slots are found by packing codes of all ones into the used slots alone; a byte with a bit
// outside that is wrong.
#include <algorithm>
#include <array>
#include <string>

#include "core/codec.h"
#include "core/page_tiles.h"
#include "core/tile_codes.h"
#include "format/bytes.h"

namespace polykv::core {
namespace {

constexpr std::size_t kMaxTileCodes = format::kMaxHeadDim * format::kTileTokens;

// The bits of a tile and its scales that hold something, where the first `num_positions` of its 16 are used.
struct TileMask {
  std::array<std::byte, format::kMaxHeadDim / 32 * format::kTileTokens * 2> scales{};
  std::array<std::byte, kMaxTileCodes * 2> codes{};

  TileMask(const TileKind& kind, std::size_t num_positions) {
    const std::size_t scale_bytes = kind.is_trellis() ? 1 : 2;
    for (std::size_t row = 0; row < kind.scale_rows; ++row)
      std::fill_n(scales.data() + row * format::kTileTokens * scale_bytes, num_positions * scale_bytes,
                  std::byte{0xff});
    if (kind.codec == format::kCodecF16) {
      for (std::size_t position = 0; position < num_positions; ++position)
        for (std::size_t d = 0; d < kind.head_dim; ++d)
          format::store_le16(codes.data() + kind.float16_offset(position, d), 0xffff);
      return;
    }
    std::array<std::uint8_t, kMaxTileCodes> slots{};
    for (std::size_t position = 0; position < num_positions; ++position)
      for (std::size_t d = 0; d < kind.head_dim; ++d)
        slots[kind.is_key ? key_slot(position, d) : value_slot(position, d, kind.width)] = 0xff;
    pack_codes(kind.codec, slots.data(), kind.width / 4, codes.data());
  }
};

format::Status check_unused(const std::byte* bytes, const std::byte* mask, std::size_t size, std::size_t offset) {
  for (std::size_t i = 0; i < size; ++i) {
    if ((bytes[i] & ~mask[i]) != std::byte{0})
      return format::Error(format::ErrorCode::kBadPadding, offset + i,
                           "an unused slot is not zero, at byte " + std::to_string(offset + i) + " of the run's pages");
  }
  return {};
}

format::Status check_tile(const TileKind& kind, const TileBytes<const std::byte>& tile, const TileMask& mask,
                          const std::byte* pages) {
  POLYKV_CHECK_STATUS(
      check_unused(tile.scales, mask.scales.data(), kind.scale_bytes, static_cast<std::size_t>(tile.scales - pages)));
  return check_unused(tile.codes, mask.codes.data(), kind.tile_bytes, static_cast<std::size_t>(tile.codes - pages));
}

}  // namespace

format::Status check_run_padding(CodecPair codec, std::span<const std::byte> pages, std::size_t num_positions,
                                 std::size_t head_dim) {
  const TileKind key_kind = TileKind::keys(codec.key, head_dim), value_kind = TileKind::values(codec.value, head_dim);
  const std::size_t last_positions = num_positions % format::kTileTokens;
  const TileMask full_values(value_kind, format::kTileTokens);
  const TileMask last_keys(key_kind, last_positions), last_values(value_kind, last_positions);
  const bool values_padded = value_kind.width != head_dim;
  static constexpr std::array<std::byte, 64> kNothing{};
  for (PageWalk walk(codec, pages, num_positions, head_dim); !walk.done(); walk.next()) {
    for (std::size_t tile = 0; tile < walk.layout().num_tiles; ++tile) {
      const bool short_tile = walk.tile_positions(tile) < format::kTileTokens;
      if (short_tile) POLYKV_CHECK_STATUS(check_tile(key_kind, walk.keys(tile), last_keys, pages.data()));
      if (short_tile || values_padded)
        POLYKV_CHECK_STATUS(
            check_tile(value_kind, walk.values(tile), short_tile ? last_values : full_values, pages.data()));
    }
    const std::span<const std::byte> padding = walk.padding();
    POLYKV_CHECK_STATUS(check_unused(padding.data(), kNothing.data(), padding.size(),
                                     static_cast<std::size_t>(padding.data() - pages.data())));
  }
  return {};
}

}  // namespace polykv::core
