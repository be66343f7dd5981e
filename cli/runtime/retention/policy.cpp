#include "cli/runtime/retention/policy.h"

#include <algorithm>

namespace polykv::runtime {
namespace {

constexpr RetentionPolicy kPolicies[] = {
    {"keydiff", "KeyDiff", PolicyKind::kAgnostic, false, 0, score_keydiff},
    {"streamingllm", "StreamingLLM, arXiv 2309.17453", PolicyKind::kAgnostic, false, 0, score_streaming_llm},
    {"observed", "mean attention received, of a sample of rows", PolicyKind::kAgnostic, true, 0, score_observed},
    {"h2o", "H2O, arXiv 2306.14048", PolicyKind::kAware, true, 0, score_h2o},
    {"tova", "TOVA, arXiv 2401.06104", PolicyKind::kAware, true, 0, score_tova},
    {"snapkv", "SnapKV, arXiv 2404.14469", PolicyKind::kAware, true, 32, score_snapkv},
    {"pyramidkv", "PyramidKV, arXiv 2406.02069", PolicyKind::kAware, true, 8, score_pyramidkv},
    {"knorm", "-|k|", PolicyKind::kControl, false, 0, score_knorm},
    {"random", "any positions", PolicyKind::kControl, false, 0, score_random},
};

}  // namespace

std::span<const RetentionPolicy> retention_policies() { return kPolicies; }

const RetentionPolicy* find_retention_policy(std::string_view name) {
  const auto found = std::find_if(std::begin(kPolicies), std::end(kPolicies),
                                  [&](const RetentionPolicy& policy) { return name == policy.name; });
  return found == std::end(kPolicies) ? nullptr : found;
}

}  // namespace polykv::runtime
