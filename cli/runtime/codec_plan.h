// Which codecs the keys and values of each (layer, kv_head) are kept in.
#pragma once

#include <string>
#include <vector>

#include "core/codec.h"
#include "format/layout.h"
#include "format/shape.h"

namespace polykv::runtime {

using CodecPlan = std::vector<core::CodecPair>;  // [layer * num_kv_heads + kv_head]

CodecPlan uniform_plan(const format::KvShape& shape, core::CodecPair codec);

// What the identity calls it: the name of its one pair, or "mixed".
std::string plan_name(const CodecPlan& plan);

// All positions of a base pool but the sinks, one run a head. Not placed.
format::Layout plan_layout(const format::KvShape& shape, const CodecPlan& plan);

// True if a run's key codec removes the mean: the pool has means then.
bool removes_means(const format::Layout& layout);

}  // namespace polykv::runtime
