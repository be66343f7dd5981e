// From a file's metadata to a ModelConfig: one reader per format, the same refusals behind both.
#pragma once

#include <cstddef>
#include <span>

#include "cli/runtime/weights/architectures.h"
#include "cli/runtime/weights/gguf.h"
#include "cli/runtime/weights/model_config.h"
#include "cli/runtime/weights/tensor_table.h"
#include "format/status.h"

namespace polykv::runtime {

struct ModelDescription {
  const Architecture* architecture = nullptr;
  ModelConfig config;
  BiasRule bias = BiasRule::kNever;
  bool tied = false;  // the output matrix is the embedding
};

// Errors of both: kUnsupportedModel for what polykv does not run, kBadModelFile for a missing or contradictory field.
// The vocabulary's size comes from the embedding, and rope_freqs.weight is taken, so `tensors` must be those of `gguf`.
format::Result<ModelDescription> describe_gguf(const GgufFile& gguf, TensorTable& tensors);
format::Result<ModelDescription> describe_hf(std::span<const std::byte> config_json);

// Limits and divisibility, whatever the format.
format::Status check_config(const ModelConfig& config);

}  // namespace polykv::runtime
