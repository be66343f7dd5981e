// How much a square error counts in each dimension of a head's keys and values, and the balances that are made from it
// (core/codec.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/weights/model_file.h"
#include "core/codec.h"
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

// What a head's keys and values, float16 bits [num_positions][head_dim], are changed by before they are quantized.
//   head     layer * num_kv_heads + kv_head
//   vectors  [mean, key balance, value balance][head_dim]: written, and what the result looks at; empty in a pool
//            without means, where nothing is changed
// A codec that takes no part in it has a mean of zeros and balances of ones, which nobody reads.
core::HeadTransform make_transform(core::CodecPair codec, std::span<const std::uint16_t> keys,
                                   std::span<const std::uint16_t> values, const DimensionWeights& weights,
                                   std::size_t head, std::span<std::uint16_t> vectors);

}  // namespace polykv::runtime
