// Where scales and codes lie inside one page. The only place these offsets are computed; spec/codecs.md, "Pages".
//
// A page holds up to 64 positions of one run, as whole tiles of 16:
//   key scales, value scales, key tiles, value tiles, zero padding to 64 bytes.
// All tiles of one kind have the same size, so tile t of the keys starts at keys_offset + t * key_tile_bytes.
#pragma once

#include <cstddef>

#include "format/shape.h"

namespace polykv::format {

struct PageLayout {
  std::size_t num_tiles;         // 1 to 4
  std::size_t key_scale_rows;    // scales per position: 0 for f16, ceil(head_dim / 32) for k8, else 1
  std::size_t value_scale_rows;  // 0 for f16, else 1
  std::size_t key_scale_bytes;   // of one tile: rows of 16 bytes for trellis codecs, else of 16 float16
  std::size_t value_scale_bytes;
  std::size_t key_scales_offset;    // [num_tiles][key_scale_rows][16], from the start of the page
  std::size_t value_scales_offset;  // [num_tiles][value_scale_rows][16]
  std::size_t keys_offset;          // [num_tiles][key_tile_bytes]
  std::size_t key_tile_bytes;
  std::size_t values_offset;  // [num_tiles][value_tile_bytes]
  std::size_t value_tile_bytes;
  std::size_t bytes;  // the whole page, padding included; a multiple of 64
};

// `num_positions` is 1 to 64; head_dim a multiple of 8, at most kMaxHeadDim; the codecs known. Cannot overflow under
// these.
PageLayout page_layout(CodecId key_codec, CodecId value_codec, std::size_t head_dim, std::size_t num_positions);

// Bytes of all pages of a run of `num_positions` positions (full pages, then a short one).
std::size_t run_bytes(CodecId key_codec, CodecId value_codec, std::size_t head_dim, std::size_t num_positions);

// head_dim padded to the width of a value tile.
constexpr std::size_t padded_value_dim(std::size_t head_dim) { return (head_dim + 15) / 16 * 16; }

}  // namespace polykv::format
