// append: another part of a document, read after what a chain of pools holds, as a pool that extends it.
#pragma once

#include <cstdint>
#include <filesystem>

#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/model_runner.h"
#include "cli/runtime/weights/model_file.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

struct ExtendReport {
  double prefill_ms = 0.0;  // with what is done in its layers: dequantizing the past, quantizing
  std::uint64_t pool_bytes = 0;
};

// Runs the model over the card's tokens after the chain, of which one layer at a time is dequantized, and publishes the
// card at `path`. Errors: kUnsupportedFeature, if the chain dropped positions; those of the runner and the writer.
format::Result<ExtendReport> extend_pool(const ModelFile& model, CardSpec spec, PrefillRunner& runner,
                                         PrefillOptions prefill, const std::filesystem::path& path,
                                         const format::WriterOptions& options, core::Workers& workers);

}  // namespace polykv::runtime
