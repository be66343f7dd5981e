#include "cli/runtime/codec_plan.h"

#include <algorithm>
#include <map>
#include <utility>

namespace polykv::runtime {

CodecPlan uniform_plan(const format::KvShape& shape, core::CodecPair codec) {
  return CodecPlan(std::size_t{shape.num_layers} * shape.num_kv_heads, codec);
}

std::string plan_name(const CodecPlan& plan) {
  const bool uniform =
      std::all_of(plan.begin(), plan.end(), [&](core::CodecPair pair) { return pair == plan.front(); });
  return uniform ? core::codec_name(plan.front()) : "mixed";
}

std::uint32_t num_kept(const format::KvShape& shape, const KeptPositions& kept, std::size_t head) {
  if (kept.empty()) return shape.num_tokens - std::min(shape.num_tokens, format::kNumSinks);
  return kept[head].num_positions();
}

void append_positions(std::span<const format::PositionRange> ranges, std::uint32_t first_position, std::size_t head_dim,
                      std::span<const std::uint16_t> from, std::vector<std::uint16_t>& out) {
  for (const format::PositionRange range : ranges) {
    const auto part = from.subspan((range.begin - first_position) * head_dim, (range.end - range.begin) * head_dim);
    out.insert(out.end(), part.begin(), part.end());
  }
}

format::Layout plan_layout(const format::KvShape& shape, const CodecPlan& plan, const KeptPositions& kept) {
  format::Layout layout = format::Layout::uniform(shape, 0, plan.front().key, plan.front().value);
  if (!kept.empty()) {
    layout.position_sets.clear();
    std::map<std::vector<std::pair<std::uint32_t, std::uint32_t>>, std::uint32_t> stored;  // each set once
    for (std::size_t head = 0; head < plan.size(); ++head) {
      layout.runs[head].clear();
      if (kept[head].ranges.empty()) continue;
      std::vector<std::pair<std::uint32_t, std::uint32_t>> ranges;
      for (const format::PositionRange range : kept[head].ranges) ranges.emplace_back(range.begin, range.end);
      const auto [at, is_new] = stored.emplace(ranges, static_cast<std::uint32_t>(layout.position_sets.size()));
      if (is_new) layout.position_sets.push_back(kept[head]);
      layout.runs[head].push_back({.position_set = at->second});
    }
  }
  for (std::size_t head = 0; head < plan.size(); ++head) {
    for (format::Run& run : layout.runs[head]) {  // none, if all positions are sinks
      run.key_codec = plan[head].key;
      run.value_codec = plan[head].value;
    }
  }
  return layout;
}

namespace {

// Where `codec` is, as maximal ranges.
format::PositionSet positions_of(core::CodecPair codec, const std::vector<core::CodecPair>& plan,
                                 std::uint32_t first_position) {
  format::PositionSet set;
  for (std::uint32_t i = 0; i < plan.size(); ++i) {
    const std::uint32_t position = first_position + i;
    if (plan[i] != codec) continue;
    if (!set.ranges.empty() && set.ranges.back().end == position) {
      ++set.ranges.back().end;
    } else {
      set.ranges.push_back({position, position + 1});
    }
  }
  return set;
}

}  // namespace

format::Layout token_layout(const TokenPlan& plan, std::uint32_t first_position) {
  format::Layout layout;
  for (const std::vector<core::CodecPair>& head : plan) {
    std::vector<format::Run>& runs = layout.runs.emplace_back();
    for (const core::CodecPair codec : head) {
      const auto same = [codec](const format::Run& run) {
        return run.key_codec == codec.key && run.value_codec == codec.value;
      };
      if (std::any_of(runs.begin(), runs.end(), same)) continue;
      format::PositionSet set = positions_of(codec, head, first_position);
      auto at = std::find(layout.position_sets.begin(), layout.position_sets.end(), set);
      if (at == layout.position_sets.end()) at = layout.position_sets.insert(at, std::move(set));
      runs.push_back({.position_set = static_cast<std::uint32_t>(at - layout.position_sets.begin()),
                      .key_codec = codec.key,
                      .value_codec = codec.value});
    }
  }
  return layout;
}

bool removes_means(const format::Layout& layout) {
  return std::any_of(layout.runs.begin(), layout.runs.end(), [](const std::vector<format::Run>& runs) {
    return std::any_of(runs.begin(), runs.end(),
                       [](const format::Run& run) { return format::key_codec_removes_mean(run.key_codec); });
  });
}

}  // namespace polykv::runtime
