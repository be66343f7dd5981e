// Policy, positions and bits together: for every (layer, kv_head) by whose scores, how many positions and in which
// codecs, the least expected loss within a number of bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/codec_plan.h"
#include "cli/runtime/retention/drop_loss.h"
#include "cli/runtime/retention/policy.h"
#include "cli/runtime/sensitivity.h"
#include "format/shape.h"

namespace polykv::runtime {

struct JointPlan {
  CodecPlan codecs;
  KeptPositions kept;
  double expected_kld = 0.0;
};

// What a plan is chosen from.
struct JointTables {
  std::span<const Sensitivity> sensitivities;            // [head]
  std::span<const std::vector<RetentionScores>> scores;  // [policy][layer]
  std::span<const double> drop_losses;                   // [policy][head][share of kKeptShares]
};

// By a Lagrangian (Everett 1963): at a price for a byte each head takes the corner of its lower convex hull of (bytes,
// loss) that costs least; the price falls as far as the bytes allow. plan_kv_bytes of the result is at most `kv_bytes`,
// unless not even the smallest plan fits, which is returned then. Deterministic.
JointPlan plan_jointly(const format::KvShape& shape, const JointTables& tables, std::uint64_t kv_bytes);

}  // namespace polykv::runtime
