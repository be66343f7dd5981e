// Which positions each (layer, kv_head) keeps, and in which codecs its keys and values are.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/codec.h"
#include "format/layout.h"
#include "format/shape.h"

namespace polykv::runtime {

using CodecPlan = std::vector<core::CodecPair>;  // [layer * num_kv_heads + kv_head]

// [layer * num_kv_heads + kv_head], without the sinks, which every head keeps; a set without ranges keeps nothing else.
// Empty: all positions of all heads.
using KeptPositions = std::vector<format::PositionSet>;

// Without the sinks.
std::uint32_t num_kept(const format::KvShape& shape, const KeptPositions& kept, std::size_t head);

// Appends a head's values at those positions; `from` is [num_tokens][head_dim], from `first_position` on.
void append_positions(std::span<const format::PositionRange> ranges, std::uint32_t first_position, std::size_t head_dim,
                      std::span<const std::uint16_t> from, std::vector<std::uint16_t>& out);

CodecPlan uniform_plan(const format::KvShape& shape, core::CodecPair codec);

// What the identity calls it: the name of its one pair, or "mixed".
std::string plan_name(const CodecPlan& plan);

// Of a base pool: one run a head, none where only sinks are kept. Not placed.
format::Layout plan_layout(const format::KvShape& shape, const CodecPlan& plan, const KeptPositions& kept = {});

// Every position of a head in a codec of its own: [head][position - first_position], empty for the sinks alone. A run
// for each codec; heads that agree share their sets of positions. Not placed.
using TokenPlan = std::vector<std::vector<core::CodecPair>>;
format::Layout token_layout(const TokenPlan& plan, std::uint32_t first_position);

// True if a run's key codec removes the mean: the pool has means then.
bool removes_means(const format::Layout& layout);

}  // namespace polykv::runtime
