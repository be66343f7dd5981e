// How much a square error counts in each dimension of a head's keys and values: what their balances are made from
// (core/codec.h).
#pragma once

#include <vector>

#include "cli/runtime/weights/model_file.h"
#include "core/workers.h"

namespace polykv::runtime {

// [layer * num_kv_heads + kv_head][head_dim] each; empty: all dimensions alike, no balance.
struct DimensionWeights {
  std::vector<float> keys;    // the mean square of the queries that meet them (Sensitivities::query_squares)
  std::vector<float> values;  // output_squares
};

// Squares of the output projection's columns, over the q heads that share a kv_head: an error of a value goes through
// them.
std::vector<float> output_squares(const ModelFile& model, core::Workers& workers);

}  // namespace polykv::runtime
