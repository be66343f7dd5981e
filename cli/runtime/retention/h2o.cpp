#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

// The attention that a position gets from all rows, summed. It favours early positions, which more rows see; for the
// late ones there is the half of the budget that goes to the most recent.
RetentionScores score_h2o(const RetentionLayer& layer) {
  return {sum_groups(layer, LayerAttention(layer).sum_rows({0, layer.num_tokens()}))};
}

}  // namespace polykv::runtime
