// The rows that look at a card's tokens, and what rounding each token's keys and values does to them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/sensitivity.h"
#include "cli/runtime/step_runner.h"
#include "cli/runtime/weights/model_file.h"
#include "core/tail.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

// [layer * num_kv_heads + kv_head][token]: as Sensitivity, but of one token's keys and values instead of all.
using TokenSensitivities = std::vector<std::vector<Sensitivity>>;

// [layer * num_q_heads + q_head][token]: attention weights.
using TokenWeights = std::vector<std::vector<double>>;

// What steps showed of some rows, kept until the card's tokens are all there.
class CardRows {
 public:
  explicit CardRows(const ModelConfig& config) : config_(config), layers_(config.num_layers) {}

  // Rows [first, first + count) of a step's layer, of which the first sees `num_seen` tokens of the tail, itself among
  // them, the next one more, and so on. Of more than kMostRows the oldest are forgotten.
  void add(const StepLayer& step, std::size_t first, std::size_t count, std::uint32_t num_seen);

  // Rows of `tokens`, fed after the tail's, which is then as before: what comes next, as far as that is known. Tokens
  // for which the tail has no room are left out.
  format::Status look_ahead(StepRunner& runner, core::Tail& tail, std::span<const std::uint32_t> tokens);

  std::size_t num_rows() const { return layers_.front().num_seen.size(); }

  // The mean over the rows, each looking at the tokens that it sees but not at itself. `output_squares` is that of
  // dimension_weights.h.
  TokenSensitivities measure(const core::Tail& tail, std::uint32_t num_tokens, std::span<const float> output_squares,
                             core::Workers& workers) const;

  // The weight on each token: the mean over the rows that see it, itself aside; 0 where none does.
  TokenWeights weights(const core::Tail& tail, std::size_t num_tokens, core::Workers& workers) const;

  static constexpr std::size_t kMostRows = 64;

 private:
  struct Layer {
    std::vector<float> query, mixed;  // [rows][num_q_heads][head_dim]
    std::vector<float> log_sums;      // [rows][num_q_heads]
    std::vector<float> hidden;        // [rows], square
    std::vector<std::uint32_t> num_seen;
  };
  struct HeadFloats;
  void mean_weights(const Layer& layer, std::size_t q_head, const HeadFloats& kv, std::span<double> means) const;
  void measure_head(const Layer& layer, std::size_t kv_head, const HeadFloats& kv, float output_square,
                    std::span<Sensitivity> sums) const;

  const ModelConfig& config_;
  std::vector<Layer> layers_;
};

}  // namespace polykv::runtime
