// What dropping positions of a head does to the model, in the unit of sensitivity.h, told from rows that go on from the
// document.
//
// A row's weights p over positions give its output o. Without the positions E, of weight m together, the rest share it
// out: the output changes by (m o - sum over E of p_i v_i) / (1 - m). What that leaves in the residual stream, through
// the output projection W of the head, is counted without products of different dimensions: sum over d of |W_d|^2
// e_d^2.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/retention/replay.h"
#include "cli/runtime/weights/model_file.h"
#include "core/workers.h"

namespace polykv::runtime {

// Shares of its positions that a head may keep in a joint plan, the sinks apart.
inline constexpr std::array<double, 12> kKeptShares = {1.0,  0.85, 0.7,  0.55, 0.42, 0.32,
                                                       0.24, 0.17, 0.12, 0.08, 0.05, 0.03};
// At least one, of any.
std::uint32_t kept_of_share(std::uint32_t num_positions, std::size_t share);

// A head's positions after the sinks, best first: of equal scores the later.
std::vector<std::uint32_t> ranked_positions(std::span<const float> scores);

// What is looked at: one layer of a document.
struct DropLayer {
  const ModelConfig& config;
  const core::WeightMatrix& attention_output;
  std::uint32_t layer;
  std::uint32_t num_tokens;                     // of the document
  std::span<const std::uint16_t> keys, values;  // float16 [kv_head][num_tokens][head_dim]
  std::span<const ReplayedRows> rows;           // each kind of at least one layer
};

// The weighted mean over the counted rows of the square added to the residual stream, over the stream's own,
// [policy][kv_head][share]: a head keeps the best by `scores` [policy][kv_head][num_tokens], and a row what is its own.
std::vector<double> drop_losses(const DropLayer& layer, std::span<const std::span<const float>> scores,
                                core::Workers& workers);

}  // namespace polykv::runtime
