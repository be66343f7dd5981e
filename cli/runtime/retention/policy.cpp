#include "cli/runtime/retention/policy.h"

#include <algorithm>

namespace polykv::runtime {
namespace {

constexpr RetentionPolicy kPolicies[] = {
    {.name = "expected-attention",
     .source = "Expected Attention, arXiv 2510.00636",
     .kind = PolicyKind::kAgnostic,
     .needs_queries = true,
     .score = score_expected_attention},
    {.name = "compactor",
     .source = "Compactor, arXiv 2507.08143",
     .kind = PolicyKind::kAgnostic,
     .needs_queries = true,
     .window = 4,
     .score = score_compactor},
    {.name = "keydiff", .source = "KeyDiff", .kind = PolicyKind::kAgnostic, .score = score_keydiff},
    {.name = "lagkv", .source = "LagKV, arXiv 2504.04704", .kind = PolicyKind::kAgnostic, .score = score_lagkv},
    {.name = "streamingllm",
     .source = "StreamingLLM, arXiv 2309.17453",
     .kind = PolicyKind::kAgnostic,
     .score = score_streaming_llm},
    {.name = "observed",
     .source = "attention received from a sample of rows, the mean over those that see",
     .kind = PolicyKind::kAgnostic,
     .needs_queries = true,
     .score = score_observed},
    {.name = "fullkv",
     .source = "everything, charged in full",
     .kind = PolicyKind::kAgnostic,
     .score = score_fullkv,
     .share_budget = share_everything},
    {.name = "h2o",
     .source = "H2O, arXiv 2306.14048",
     .kind = PolicyKind::kAware,
     .needs_queries = true,
     .recent_share = 0.5,
     .score = score_h2o},
    {.name = "tova",
     .source = "TOVA, arXiv 2401.06104",
     .kind = PolicyKind::kAware,
     .needs_queries = true,
     .score = score_tova},
    {.name = "scissorhands",
     .source = "after ScissorHands, arXiv 2305.17118",
     .kind = PolicyKind::kAware,
     .is_reconstruction = true,
     .needs_queries = true,
     .window = 10,
     .score = score_scissorhands},
    {.name = "snapkv",
     .source = "SnapKV, arXiv 2404.14469",
     .kind = PolicyKind::kAware,
     .needs_queries = true,
     .window = 32,
     .score = score_snapkv},
    {.name = "pyramidkv",
     .source = "PyramidKV, arXiv 2406.02069",
     .kind = PolicyKind::kAware,
     .needs_queries = true,
     .window = 8,
     .score = score_pyramidkv,
     .share_budget = share_pyramid},
    {.name = "cake",
     .source = "CAKE, arXiv 2503.12491",
     .kind = PolicyKind::kAware,
     .needs_queries = true,
     .window = 32,
     .score = score_cake},
    {.name = "d2o",
     .source = "D2O, arXiv 2406.13035",
     .kind = PolicyKind::kAware,
     .needs_queries = true,
     .recent_share = 0.5,
     .score = score_d2o,
     .share_budget = share_d2o,
     .merge = merge_d2o},
    {.name = "cam",
     .source = "after CaM, ICML 2024",
     .kind = PolicyKind::kAware,
     .is_reconstruction = true,
     .needs_queries = true,
     .recent_share = 0.5,
     .score = score_h2o,
     .merge = merge_cam},
    {.name = "knorm", .source = "-|k|", .kind = PolicyKind::kControl, .score = score_knorm},
    {.name = "random", .source = "any positions", .kind = PolicyKind::kControl, .score = score_random},
};

}  // namespace

std::span<const RetentionPolicy> retention_policies() { return kPolicies; }

const RetentionPolicy* find_retention_policy(std::string_view name) {
  const auto found = std::find_if(std::begin(kPolicies), std::end(kPolicies),
                                  [&](const RetentionPolicy& policy) { return name == policy.name; });
  return found == std::end(kPolicies) ? nullptr : found;
}

}  // namespace polykv::runtime
