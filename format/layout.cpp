#include "format/layout.h"

#include <algorithm>
#include <bit>
#include <set>
#include <string>

#include "format/bytes.h"
#include "format/page_layout.h"

namespace polykv::format {
namespace {

constexpr std::size_t kHeaderBytes = 8;      // number of position sets, number of runs
constexpr std::size_t kRunBytes = 8;         // position set, codecs and exponents of keys and values
constexpr std::size_t kSetHeaderBytes = 16;  // form, number of positions, first position, count
constexpr std::uint64_t kMaxCombinedRanges = std::uint64_t{1} << 24;
constexpr std::uint32_t kFormRanges = 0;
constexpr std::uint32_t kFormBitmap = 1;

Error bad_layout(std::uint64_t offset, std::string message) {
  return Error{ErrorCode::kBadLayout, offset, "section layout: " + std::move(message)};
}

std::size_t num_heads(const KvShape& shape) { return std::size_t{shape.num_layers} * shape.num_kv_heads; }

std::uint32_t num_sinks(const KvShape& shape, std::uint32_t first_position) {
  return first_position == 0 ? std::min(kNumSinks, shape.num_tokens) : 0;
}

std::uint64_t bitmap_bytes(std::uint64_t num_bits) { return (num_bits + 31) / 32 * 4; }

// How many runs of ones a bitmap has: a run starts at a one after a zero.
std::uint64_t count_bit_runs(std::span<const std::byte> bitmap) {
  std::uint64_t count = 0;
  std::uint32_t last_bit = 0;
  for (std::size_t i = 0; i < bitmap.size(); i += 4) {
    const std::uint32_t word = load_le32(bitmap.data() + i);
    count += static_cast<std::uint64_t>(std::popcount(word & ~(word << 1 | last_bit)));
    last_bit = word >> 31;
  }
  return count;
}

void append_position_set(std::vector<std::byte>& out, const PositionSet& set) {
  const std::uint32_t begin = set.ranges.empty() ? 0 : set.ranges.front().begin;
  const std::uint32_t end = set.ranges.empty() ? 0 : set.ranges.back().end;
  const bool bitmap = bitmap_bytes(end - begin) < set.ranges.size() * 8;
  append_le32(out, bitmap ? kFormBitmap : kFormRanges);
  append_le32(out, set.num_positions());
  append_le32(out, begin);
  append_le32(out, bitmap ? end - begin : static_cast<std::uint32_t>(set.ranges.size()));
  if (!bitmap) {
    for (const PositionRange& range : set.ranges) {
      append_le32(out, range.begin);
      append_le32(out, range.end);
    }
    return;
  }
  const std::size_t bits = out.size();
  out.resize(bits + bitmap_bytes(end - begin));
  for (const PositionRange& range : set.ranges) {
    for (std::uint32_t i = range.begin - begin; i < range.end - begin; ++i) {
      out[bits + i / 8] |= static_cast<std::byte>(1u << (i % 8));
    }
  }
}

// Parses the section front to back; every read is checked against what is left.
class LayoutParser {
 public:
  LayoutParser(std::span<const std::byte> bytes, const KvShape& shape, std::uint32_t first_position)
      : bytes_(bytes),
        shape_(shape),
        begin_(first_position + num_sinks(shape, first_position)),
        end_(std::uint64_t{first_position} + shape.num_tokens) {}

  Result<Layout> parse() {
    POLYKV_CHECK_STATUS(parse_runs());
    for (std::uint32_t i = 0; i < layout_.position_sets.size(); ++i) POLYKV_CHECK_STATUS(parse_position_set(i));
    if (offset_ != bytes_.size()) return bad_layout(offset_, "bytes follow its last position set");
    POLYKV_CHECK_STATUS(check_sets_used());
    POLYKV_CHECK_STATUS(check_heads());
    return std::move(layout_);
  }

 private:
  bool left(std::uint64_t bytes) const { return bytes <= bytes_.size() - offset_; }

  std::uint32_t take32() {
    offset_ += 4;
    return load_le32(bytes_.data() + offset_ - 4);
  }

  // Header, runs of each head, runs. Every count is checked against the bytes that are there before it is used.
  Status parse_runs() {
    const std::uint64_t heads = num_heads(shape_);
    if (!left(kHeaderBytes + 4 * heads)) return bad_layout(0, "the counts of its runs are cut off");
    const std::uint32_t num_sets = take32(), num_runs = take32();
    std::uint64_t sum = 0;
    std::vector<std::uint32_t> counts(heads);
    for (std::uint32_t& count : counts) sum += count = take32();
    if (sum != num_runs) {
      return bad_layout(4, "it has " + std::to_string(num_runs) + " runs, its heads have " + std::to_string(sum));
    }
    if (!left(std::uint64_t{num_runs} * kRunBytes)) return bad_layout(offset_, "its runs are cut off");
    if (num_sets > num_runs) {
      return bad_layout(
          0, "it has " + std::to_string(num_sets) + " position sets for " + std::to_string(num_runs) + " runs");
    }
    layout_.position_sets.resize(num_sets);
    layout_.runs.resize(heads);
    for (std::size_t head = 0; head < heads; ++head) {
      layout_.runs[head].resize(counts[head]);
      for (Run& run : layout_.runs[head]) POLYKV_CHECK_STATUS(parse_run(run, num_sets));
    }
    return {};
  }

  Status parse_run(Run& run, std::uint32_t num_sets) {
    const std::size_t start = offset_;
    run.position_set = take32();
    const std::uint32_t rest = take32();
    run.key_codec = static_cast<CodecId>(rest & 0xff);
    run.value_codec = static_cast<CodecId>((rest >> 8) & 0xff);
    if (run.position_set >= num_sets) {
      return bad_layout(
          start, "a run names position set " + std::to_string(run.position_set) + " of " + std::to_string(num_sets));
    }
    if (!known_key_codec(run.key_codec)) {
      return Error{ErrorCode::kUnknownCodec, start + 4, "section layout: key codec " + std::to_string(run.key_codec)};
    }
    if (!known_value_codec(run.value_codec)) {
      return Error{ErrorCode::kUnknownCodec, start + 5,
                   "section layout: value codec " + std::to_string(run.value_codec)};
    }
    run.exponents = {static_cast<std::int8_t>(rest >> 16 & 0xff), static_cast<std::int8_t>(rest >> 24)};
    POLYKV_CHECK_STATUS(check_exponent(run.key_codec, run.exponents.key, start + 6, "key"));
    return check_exponent(run.value_codec, run.exponents.value, start + 7, "value");
  }

  static Status check_exponent(CodecId codec, int exponent, std::size_t offset, const char* what) {
    const int least = is_trellis_codec(codec) ? kMinScaleExponent : 0;
    const int greatest = is_trellis_codec(codec) ? kMaxScaleExponent : 0;
    if (exponent >= least && exponent <= greatest) return {};
    return bad_layout(offset, std::string("a run has ") + what + " exponent " + std::to_string(exponent) + ", codec " +
                                  std::to_string(codec) + " takes " + std::to_string(least) + " to " +
                                  std::to_string(greatest));
  }

  Status parse_position_set(std::uint32_t index) {
    const std::size_t start = offset_;
    const std::string name = "position set " + std::to_string(index);
    if (!left(kSetHeaderBytes)) return bad_layout(start, name + " is cut off");
    const std::uint32_t form = take32(), num_positions = take32(), begin = take32(), count = take32();
    PositionSet& set = layout_.position_sets[index];
    if (form == kFormRanges) {
      POLYKV_CHECK_STATUS(parse_ranges(set, name, count));
    } else if (form == kFormBitmap) {
      POLYKV_CHECK_STATUS(parse_bitmap(set, name, begin, count));
    } else {
      return bad_layout(start, name + " has form " + std::to_string(form) + ", expected 0 or 1");
    }
    if (set.ranges.empty()) return bad_layout(start + 12, name + " is empty");
    if (set.ranges.front().begin != begin) return bad_layout(start + 8, name + " does not begin where it says");
    if (begin < begin_ || set.ranges.back().end > end_) {
      return bad_layout(start + kSetHeaderBytes,
                        name + " has positions outside " + std::to_string(begin_) + " to " + std::to_string(end_));
    }
    if (set.num_positions() != num_positions) {
      return bad_layout(start + 4, name + " has " + std::to_string(set.num_positions()) + " positions, expected " +
                                       std::to_string(num_positions));
    }
    return {};
  }

  // Before they are allocated: a bitmap is up to 32 times smaller than the ranges it stands for.
  Status add_ranges(PositionSet& set, std::uint64_t count) {
    num_ranges_ += count;
    if (num_ranges_ > kMaxRanges) {
      return Error{ErrorCode::kLimitExceeded, offset_, "section layout: more than 2^26 ranges of positions"};
    }
    set.ranges.reserve(count);
    return {};
  }

  Status parse_ranges(PositionSet& set, const std::string& name, std::uint32_t count) {
    if (!left(std::uint64_t{count} * 8)) return bad_layout(offset_, name + " is cut off");
    POLYKV_CHECK_STATUS(add_ranges(set, count));
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::size_t start = offset_;
      const std::uint32_t begin = take32(), end = take32();
      if (begin >= end || (i > 0 && begin <= set.ranges.back().end)) {
        return bad_layout(start, name + ": ranges do not ascend with gaps between them");
      }
      set.ranges.push_back({begin, end});
    }
    return {};
  }

  Status parse_bitmap(PositionSet& set, const std::string& name, std::uint32_t begin, std::uint32_t num_bits) {
    const std::uint64_t size = bitmap_bytes(num_bits);
    if (!left(size)) return bad_layout(offset_, name + " is cut off");
    if (std::uint64_t{begin} + num_bits > end_) {
      return bad_layout(offset_ - 8, name + " has positions past " + std::to_string(end_));
    }
    const auto bit = [&](std::uint64_t i) {
      return (std::to_integer<unsigned>(bytes_[offset_ + i / 8]) >> (i % 8) & 1u) != 0;
    };
    for (std::uint64_t i = num_bits; i < size * 8; ++i) {
      if (bit(i)) return bad_layout(offset_ + i / 8, name + ": a bit past its last position is set");
    }
    if (num_bits > 0 && !bit(num_bits - 1))
      return bad_layout(offset_ + (num_bits - 1) / 8, name + ": its last bit is not set");
    POLYKV_CHECK_STATUS(add_ranges(set, count_bit_runs(bytes_.subspan(offset_, size))));
    for (std::uint32_t i = 0; i < num_bits;) {
      if (!bit(i)) {
        ++i;
        continue;
      }
      const std::uint32_t first = i;
      while (i < num_bits && bit(i)) ++i;
      set.ranges.push_back({begin + first, begin + i});
    }
    offset_ += size;
    return {};
  }

  Status check_sets_used() const {
    std::vector<bool> used(layout_.position_sets.size());
    for (const std::vector<Run>& runs : layout_.runs) {
      for (const Run& run : runs) used[run.position_set] = true;
    }
    for (std::size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) return bad_layout(kNoOffset, "position set " + std::to_string(i) + " is in no run");
    }
    return {};
  }

  // No position twice in a head. Heads that share all their sets are checked once, and the ranges looked at are
  // bounded: else 200 KB of one large set in many combinations would be minutes of sorting.
  Status check_heads() const {
    std::set<std::vector<std::uint32_t>> seen;
    const std::uint64_t max_work = kMaxCombinedRanges + 4 * num_ranges_;
    std::uint64_t work = 0;
    for (std::size_t head = 0; head < layout_.runs.size(); ++head) {
      if (layout_.runs[head].size() < 2) continue;
      std::vector<std::uint32_t> sets;
      for (const Run& run : layout_.runs[head]) sets.push_back(run.position_set);
      std::sort(sets.begin(), sets.end());
      const std::string name = "layer " + std::to_string(head / shape_.num_kv_heads) + ", kv_head " +
                               std::to_string(head % shape_.num_kv_heads);
      if (!seen.insert(sets).second) continue;
      std::vector<PositionRange> ranges;
      for (const std::uint32_t set : sets) {
        work += layout_.position_sets[set].ranges.size();
        if (work > max_work) {
          return Error{ErrorCode::kLimitExceeded, "section layout: its heads combine the same ranges too many times"};
        }
        const std::vector<PositionRange>& more = layout_.position_sets[set].ranges;
        ranges.insert(ranges.end(), more.begin(), more.end());
      }
      std::sort(ranges.begin(), ranges.end(),
                [](const PositionRange& a, const PositionRange& b) { return a.begin < b.begin; });
      for (std::size_t i = 1; i < ranges.size(); ++i) {
        if (ranges[i].begin < ranges[i - 1].end) {
          return bad_layout(kNoOffset, name + ": position " + std::to_string(ranges[i].begin) + " is in two runs");
        }
      }
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  KvShape shape_;
  std::uint32_t begin_;
  std::uint64_t end_;
  std::size_t offset_ = 0;
  std::uint64_t num_ranges_ = 0;
  Layout layout_;
};

}  // namespace

std::uint32_t PositionSet::num_positions() const {
  std::uint32_t sum = 0;
  for (const PositionRange& range : ranges) sum += range.end - range.begin;
  return sum;
}

Result<std::uint64_t> Layout::place(const KvShape& shape) {
  if (runs.size() != num_heads(shape)) {
    return bad_layout(
        kNoOffset, "runs for " + std::to_string(runs.size()) + " heads, expected " + std::to_string(num_heads(shape)));
  }
  std::vector<std::uint32_t> num_positions;
  for (const PositionSet& set : position_sets) num_positions.push_back(set.num_positions());
  std::uint64_t offset = 0;
  for (std::vector<Run>& head : runs) {
    for (Run& run : head) {
      if (run.position_set >= position_sets.size())
        return bad_layout(kNoOffset, "a run names a position set that is not there");
      run.pages_offset = offset;
      const std::optional<std::uint64_t> end = checked_add(
          offset, run_bytes(run.key_codec, run.value_codec, shape.head_dim, num_positions[run.position_set]));
      if (!end || *end > (std::uint64_t{1} << 46)) {
        return Error{ErrorCode::kLimitExceeded, "section layout: its pages have more than 2^46 bytes"};
      }
      offset = *end;
    }
  }
  return offset;
}

std::vector<std::byte> Layout::serialize(const KvShape&) const {
  std::vector<std::byte> out;
  std::uint32_t num_runs = 0;
  for (const std::vector<Run>& head : runs) num_runs += static_cast<std::uint32_t>(head.size());
  append_le32(out, static_cast<std::uint32_t>(position_sets.size()));
  append_le32(out, num_runs);
  for (const std::vector<Run>& head : runs) append_le32(out, static_cast<std::uint32_t>(head.size()));
  for (const std::vector<Run>& head : runs) {
    for (const Run& run : head) {
      append_le32(out, run.position_set);
      append_le32(out, run.key_codec | static_cast<std::uint32_t>(run.value_codec) << 8 |
                           static_cast<std::uint32_t>(static_cast<std::uint8_t>(run.exponents.key)) << 16 |
                           static_cast<std::uint32_t>(static_cast<std::uint8_t>(run.exponents.value)) << 24);
    }
  }
  for (const PositionSet& set : position_sets) append_position_set(out, set);
  return out;
}

Result<Layout> Layout::parse(std::span<const std::byte> bytes, const KvShape& shape, std::uint32_t first_position,
                             std::uint64_t pages_bytes) {
  POLYKV_TRY(Layout layout, LayoutParser(bytes, shape, first_position).parse());
  POLYKV_TRY(const std::uint64_t placed, layout.place(shape));
  if (placed != pages_bytes) {
    return bad_layout(kNoOffset, "its runs have " + std::to_string(placed) + " bytes of pages, expected " +
                                     std::to_string(pages_bytes));
  }
  return layout;
}

Layout Layout::uniform(const KvShape& shape, std::uint32_t first_position, CodecId key_codec, CodecId value_codec) {
  Layout layout;
  layout.runs.resize(num_heads(shape));
  const std::uint32_t begin = first_position + num_sinks(shape, first_position);
  const std::uint32_t end = first_position + shape.num_tokens;
  if (begin == end) return layout;
  layout.position_sets.push_back({{{begin, end}}});
  for (std::vector<Run>& head : layout.runs) head.push_back({0, key_codec, value_codec});
  return layout;
}

}  // namespace polykv::format
