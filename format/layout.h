// Which positions each (layer, kv_head) keeps, in which codecs, and where their pages lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "format/shape.h"
#include "format/status.h"

namespace polykv::format {

// Half-open range of positions of the whole chain.
struct PositionRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  bool operator==(const PositionRange&) const = default;
};

// Not empty; ascending, disjoint, not touching (maximal ranges). Stored once, as ranges or as a bitmap, whichever is
// smaller.
struct PositionSet {
  std::vector<PositionRange> ranges;
  std::uint32_t num_positions() const;
  bool operator==(const PositionSet&) const = default;
};

// One set of positions of one (layer, kv_head), shared by keys and values, with one key codec and one value codec.
struct Run {
  std::uint32_t position_set = 0;  // index into Layout::position_sets
  CodecId key_codec = 0;
  CodecId value_codec = 0;
  ScaleExponents exponents = {};
  std::uint64_t pages_offset = 0;  // of its first page, from the start of the pages section; set by Layout::place
};

inline constexpr std::uint64_t kMaxRanges = std::uint64_t{1} << 26;

struct Layout {
  std::vector<PositionSet> position_sets;
  std::vector<std::vector<Run>> runs;  // [layer * num_kv_heads + kv_head]; runs of a head share no position

  // Sets every pages_offset (layer, kv_head, run order) and returns the length of the pages section. Checked
  // arithmetic. kBadLayout: not one list of runs for each (layer, kv_head), or a run names a position set that is not
  // there.
  Result<std::uint64_t> place(const KvShape& shape);

  std::vector<std::byte> serialize(const KvShape& shape) const;
  // Offsets are set as by place(). Everything is checked: sets sound and used, codecs known (kUnknownCodec), positions
  // inside [first_position + sinks, first_position + num_tokens), no position twice in a head, run lengths summing
  // exactly to `pages_bytes` (kBadLayout); at most kMaxRanges ranges in all sets (kLimitExceeded).
  static Result<Layout> parse(std::span<const std::byte> bytes, const KvShape& shape, std::uint32_t first_position,
                              std::uint64_t pages_bytes);

  // Every head keeps every position of the pool (less the sinks, if it is a base pool) in one codec pair.
  static Layout uniform(const KvShape& shape, std::uint32_t first_position, CodecId key_codec, CodecId value_codec);
};

}  // namespace polykv::format
