// Which positions of a document a pool keeps, decided while its prefill goes on.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cli/runtime/codec_plan.h"
#include "cli/runtime/layer_writer.h"
#include "cli/runtime/retention/joint_plan.h"
#include "cli/runtime/retention/policy.h"
#include "cli/runtime/retention/selection.h"
#include "cli/runtime/weights/model_file.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

// The same policy, and the same share of positions, applied to the first `num_tokens` of a document alone: what comes
// after them had no part in the choice, and can be scored given it.
class Retention {
 public:
  // Everything must outlive this.
  Retention(const RetentionChoice& choice, const ModelFile& model, core::Workers& workers)
      : choice_(choice), model_(model), workers_(workers), scores_(choice.policies().size()) {}

  // Layers in order; of each its first `num_tokens` positions.
  void add(const LayerKv& layer, std::uint32_t num_tokens);

  // A policy that scores all layers at once (RetentionPolicy::score is null) is given its scores after the last layer.
  bool needs_repetition() const;
  void set_repeated(std::vector<RetentionScores> layers);

  std::span<const std::vector<RetentionScores>> scores() const { return scores_; }  // [policy][layer]

  // After the last layer. `num_all` is the number of the document's tokens, of which the choice says how many to keep.
  KeptPositions positions(std::uint32_t num_all) const;

  // What the policy saves of the positions that one head drops, in those that it keeps; before these are quantized.
  // keys and values: float16 [num_tokens or more][head_dim]. Thread-safe.
  bool merges(std::uint32_t layer) const {
    return !choice_.is_auto && !choice_.keeps_all() && choice_.policy_of(layer).merge != nullptr;
  }
  void merge(std::uint32_t layer, std::uint32_t kv_head, const format::PositionSet& kept, std::span<std::uint16_t> keys,
             std::span<std::uint16_t> values) const;

  // Of a joint choice instead: what each policy's choices lose, [policy][head][share], told from rows that go on from
  // the document; then the plan. `source` gives the keys and values that add() saw, `kv_bytes` is for all of the
  // document's tokens.
  // on_progress gets the share that is done; if it returns false, the table is not made (kInterrupted). May be empty.
  format::Result<std::vector<double>> drop_table(std::span<const ReplayedRows> rows, const HeadSource& source,
                                                 const std::function<bool(double)>& on_progress = {}) const;
  JointPlan joint_plan(std::span<const Sensitivity> sensitivities, std::span<const double> drop_table,
                       std::uint64_t kv_bytes, std::uint32_t num_all) const;

 private:
  void add(const LayerKv& layer);
  format::KvShape shape() const;

  const RetentionChoice& choice_;
  const ModelFile& model_;
  core::Workers& workers_;
  std::uint32_t num_tokens_ = 0;
  std::vector<std::vector<RetentionScores>> scores_;  // [policy][layer]
};

}  // namespace polykv::runtime
