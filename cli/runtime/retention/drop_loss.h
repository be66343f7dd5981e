// What dropping positions of a head does to the model, in the unit of sensitivity.h, told from rows of the prefill.
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

#include "cli/runtime/retention/policy.h"
#include "cli/runtime/weights/model_file.h"

namespace polykv::runtime {

// Shares of its positions that a head may keep in a joint plan, the sinks apart.
inline constexpr std::array<double, 12> kKeptShares = {1.0,  0.85, 0.7,  0.55, 0.42, 0.32,
                                                       0.24, 0.17, 0.12, 0.08, 0.05, 0.03};
// At least one, of any.
std::uint32_t kept_of_share(std::uint32_t num_positions, std::size_t share);

// A head's positions after the sinks, best first: of equal scores the later.
std::vector<std::uint32_t> ranked_positions(std::span<const float> scores);

// Mean over rows [first_row, end_row) of the squares added to the residual stream, [kv_head][share], where a head keeps
// the best by its scores; each row keeps itself. The layer has queries.
std::vector<double> drop_squares(const RetentionLayer& layer, const RetentionScores& scores,
                                 const core::WeightMatrix& attention_output, std::size_t first_row,
                                 std::size_t end_row);

}  // namespace polykv::runtime
