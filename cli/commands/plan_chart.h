// The bits that a pool's plan gave to each (layer, kv_head), as a chart for a terminal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/codec.h"
#include "format/layout.h"
#include "format/shape.h"

namespace polykv::cli {

struct HeadPlan {
  core::CodecPair codec{};              // of the run with most positions, the first of equal ones
  std::size_t num_runs = 0;             // 0: every position is a sink
  std::uint64_t num_positions = 0;      // of all its runs
  double key_bits = 0, value_bits = 0;  // a code, the mean over its positions
};

// Positions in each position set, counted once: many heads may share a long one.
std::vector<std::uint32_t> position_set_sizes(const format::Layout& layout);

// [layer * num_kv_heads + kv_head].
std::vector<HeadPlan> head_plans(const format::Layout& layout);

// True unless all heads have runs of the same codecs.
bool codecs_differ(const format::Layout& layout);

// The mean bits of a code over the positions of some heads; 0 where there are none.
struct MeanBits {
  double key = 0, value = 0;
};
MeanBits mean_bits(const std::vector<HeadPlan>& heads, std::size_t begin, std::size_t end);

std::string key_codec_name(format::CodecId codec);    // "k5", "f16"
std::string value_codec_name(format::CodecId codec);  // "v4", "f16"
std::string bits_digit(format::CodecId codec);        // "5"; "F" for f16

// A row a layer, at most 80 columns: the bits of each kv_head's keys and values, and a bar of their mean. A star marks
// a head with several runs. Of more kv_heads than fit, the fewest and the most bits.
std::string plan_chart(const format::KvShape& shape, const std::vector<HeadPlan>& heads);

}  // namespace polykv::cli
