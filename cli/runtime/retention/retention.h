// Which positions of a document a pool keeps, decided while its prefill goes on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/codec_plan.h"
#include "cli/runtime/retention/joint_plan.h"
#include "cli/runtime/retention/policy.h"
#include "cli/runtime/retention/selection.h"
#include "cli/runtime/weights/model_file.h"
#include "core/workers.h"

namespace polykv::runtime {

// The same policy, and the same share of positions, applied to the first `num_tokens` of a document alone: what comes
// after them had no part in the choice, and can be scored given it.
class Retention {
 public:
  // Everything must outlive this.
  Retention(const RetentionChoice& choice, const ModelFile& model, core::Workers& workers)
      : choice_(choice), model_(model), workers_(workers) {}

  // Layers in order; of each its first `num_tokens` positions.
  void add(const LayerKv& layer, std::uint32_t num_tokens);

  // After the last layer. `num_all` is the number of the document's tokens, of which the choice says how many to keep.
  KeptPositions positions(std::uint32_t num_all) const;

  // Of a joint choice instead; `kv_bytes` is for all of the document's tokens.
  JointPlan joint_plan(const Sensitivities& sensitivities, std::uint64_t kv_bytes, std::uint32_t num_all) const;

 private:
  const RetentionChoice& choice_;
  void add(const LayerKv& layer);
  format::KvShape shape() const;

  const ModelFile& model_;
  core::Workers& workers_;
  std::uint32_t num_tokens_ = 0;
  std::vector<RetentionScores> layers_;
  std::vector<double> drop_squares_;  // [layer][kv_head][share], of a joint choice
};

}  // namespace polykv::runtime
