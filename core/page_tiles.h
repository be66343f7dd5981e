// The tiles of a run's pages, one after the other, for code that quantizes, dequantizes or checks them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/codec.h"
#include "format/page_layout.h"

namespace polykv::core {

// What the key tiles, or the value tiles, of a run have in common.
struct TileKind {
  bool is_key;
  format::CodecId codec;
  std::size_t head_dim;
  std::size_t width;        // head_dim; padded to 16 for values
  std::size_t scale_rows;   // of 16 each
  std::size_t scale_bytes;  // of a tile
  std::size_t tile_bytes;   // of the codes

  static TileKind keys(format::CodecId codec, std::size_t head_dim) {
    const format::PageLayout layout = format::page_layout(codec, format::kCodecF16, head_dim, 1);
    return {true, codec, head_dim, head_dim, layout.key_scale_rows, layout.key_scale_bytes, layout.key_tile_bytes};
  }
  static TileKind values(format::CodecId codec, std::size_t head_dim) {
    const format::PageLayout layout = format::page_layout(format::kCodecF16, codec, head_dim, 1);
    return {false,
            codec,
            head_dim,
            format::padded_value_dim(head_dim),
            layout.value_scale_rows,
            layout.value_scale_bytes,
            layout.value_tile_bytes};
  }

  bool is_q8() const { return is_key && codec == 8; }
  bool is_trellis() const { return format::is_trellis_codec(codec); }

  // Of a value in a float16 tile: keys [head_dim][16 positions], values [16 positions][width].
  std::size_t float16_offset(std::size_t position, std::size_t dim) const {
    return 2 * (is_key ? dim * format::kTileTokens + position : position * width + dim);
  }
};

template <typename Byte>
struct TileBytes {
  Byte* scales;  // [scale_rows][16], bytes or float16
  Byte* codes;   // [tile_bytes]
};

// Walks the pages of a run. `pages` is format::run_bytes long; Byte is std::byte or const std::byte.
template <typename Byte>
class PageWalk {
 public:
  PageWalk(CodecPair codec, std::span<Byte> pages, std::size_t num_positions, std::size_t head_dim)
      : codec_(codec), pages_(pages), num_positions_(num_positions), head_dim_(head_dim) {
    set_layout();
  }

  bool done() const { return first_position_ >= num_positions_; }
  void next() {
    page_offset_ += layout_.bytes;
    first_position_ += format::kPageTokens;
    set_layout();
  }

  const format::PageLayout& layout() const { return layout_; }
  std::size_t page_offset() const { return page_offset_; }        // from the start of the run's pages
  std::size_t first_position() const { return first_position_; }  // of this page, from the start of the run
  // Used positions of a tile of this page, 1 to 16.
  std::size_t tile_positions(std::size_t tile) const {
    return std::min<std::size_t>(num_positions_ - first_position_ - tile * format::kTileTokens, format::kTileTokens);
  }

  TileBytes<Byte> tile(const TileKind& kind, std::size_t index) const {
    return kind.is_key ? keys(index) : values(index);
  }
  TileBytes<Byte> keys(std::size_t tile) const {
    return {page() + layout_.key_scales_offset + tile * layout_.key_scale_bytes,
            page() + layout_.keys_offset + tile * layout_.key_tile_bytes};
  }
  TileBytes<Byte> values(std::size_t tile) const {
    return {page() + layout_.value_scales_offset + tile * layout_.value_scale_bytes,
            page() + layout_.values_offset + tile * layout_.value_tile_bytes};
  }
  // The end of the page, after its last tile.
  std::span<Byte> padding() const {
    const std::size_t end = layout_.values_offset + layout_.num_tiles * layout_.value_tile_bytes;
    return {page() + end, layout_.bytes - end};
  }

 private:
  Byte* page() const { return pages_.data() + page_offset_; }
  void set_layout() {
    if (done()) return;
    const std::size_t left = num_positions_ - first_position_;
    layout_ =
        format::page_layout(codec_.key, codec_.value, head_dim_, std::min<std::size_t>(left, format::kPageTokens));
  }

  CodecPair codec_;
  std::span<Byte> pages_;
  std::size_t num_positions_, head_dim_;
  std::size_t page_offset_ = 0, first_position_ = 0;
  format::PageLayout layout_{};
};

}  // namespace polykv::core
