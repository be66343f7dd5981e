// What rounding a head's keys or values does to the model, told from the attention of some of the document's own rows.
//
// For a row with weights p over positions i and output o, errors of the keys change the output by sum p_i e_i (v_i -
// o), e_i = q.dk_i / sqrt(head_dim), and errors of the values by sum p_i dv_i. Errors that are independent, without a
// preferred direction (keys and values are rotated) and a share r of their vectors' squares leave in the residual
// stream, through the output projection W of the head, an expected square of
//   keys    r |W|^2 / d * |q|^2 / d^2 * sum p_i^2 |v_i - o|^2 |k_i - mean|^2       (d = head_dim, |W| Frobenius)
//   values  r |W|^2 / d * sum p_i^2 |v_i|^2
// and what counts is its size beside the stream's own. On the default model and one text the ranks of its 180 items
// agree with those of the KL divergence on the next 256 tokens, each item alone at 2 bits, to .80 (Spearman;
// `fidelity --ranks` of tests/eval makes it again), and with those of Fisher information of the same rows to .92.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cli/runtime/weights/model_file.h"
#include "core/pool.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

// Expected square added to the residual stream, over the stream's own square, for an error r = 1: per row, summed over
// the row's heads that share the (layer, kv_head).
struct Sensitivity {
  double key = 0.0;
  double value = 0.0;
};

// Rows that are looked at before `end`, and the first of them.
inline constexpr std::uint32_t kSensitivityRows = 256;
std::uint32_t first_sensitivity_row(std::uint32_t end);

struct Sensitivities {
  std::vector<Sensitivity> heads;    // [num_layers * num_kv_heads]
  std::vector<float> query_squares;  // [num_layers * num_kv_heads][head_dim]: mean square of the queries after RoPE
};

// The mean over the document's rows [first_sensitivity_row(end), end), each seeing what is
// before it. The same bits on every kernel table and number of threads.
//   exact        all of the document's keys and values as float16, in one run a head
//   tokens       the document's
//   end          at most tokens.size(); later rows and positions are not looked at
//   on_progress  share done; false stops (kInterrupted)
format::Result<Sensitivities> measure_sensitivity(const ModelFile& model, const core::KvPool& exact,
                                                  std::span<const std::uint32_t> tokens, std::uint32_t end,
                                                  core::Workers& workers,
                                                  const std::function<bool(double)>& on_progress);

}  // namespace polykv::runtime
