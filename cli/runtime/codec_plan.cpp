#include "cli/runtime/codec_plan.h"

#include <algorithm>

namespace polykv::runtime {

CodecPlan uniform_plan(const format::KvShape& shape, core::CodecPair codec) {
  return CodecPlan(std::size_t{shape.num_layers} * shape.num_kv_heads, codec);
}

std::string plan_name(const CodecPlan& plan) {
  const bool uniform =
      std::all_of(plan.begin(), plan.end(), [&](core::CodecPair pair) { return pair == plan.front(); });
  return uniform ? core::codec_name(plan.front()) : "mixed";
}

format::Layout plan_layout(const format::KvShape& shape, const CodecPlan& plan) {
  format::Layout layout = format::Layout::uniform(shape, 0, plan.front().key, plan.front().value);
  for (std::size_t head = 0; head < plan.size(); ++head) {
    for (format::Run& run : layout.runs[head]) {  // none, if all positions are sinks
      run.key_codec = plan[head].key;
      run.value_codec = plan[head].value;
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
