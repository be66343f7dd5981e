// The runs of a calibration: one text, each layer and phase by each policy, everything else as it is.
//
// A text's prefix is prefilled once and kept uncompressed; its tail, and passages of the text which are quoted after
// it, are scored through the step runner. In the prefill a layer keeps less of the prefix, in the decode less of these
// rows themselves. A run begins in the layer that is looked at, from the rows' residual stream as everything leaves it
// before: over all layers that is half of the layers' work. All of it is float16 at its own positions, so what is
// measured is the policy's doing alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cli/runtime/model_identity.h"
#include "cli/runtime/model_runner.h"
#include "cli/runtime/retention/calibration.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

inline constexpr std::size_t kMostCalibrationTokens = 2048, kFewestCalibrationTokens = 384;

struct CalibrationText {
  std::string name;
  std::uint64_t bytes = 0;
  std::vector<std::uint32_t> tokens;
  std::vector<std::uint32_t> quotation;  // what a passage is quoted after
};

// The first tokens of a text, without a template: BOS where the model asks for it. kUnusableText, naming the text, if
// they are too few.
format::Result<CalibrationText> calibration_text(const Model& model, const std::string& name, std::string_view text);

struct CalibrationRequest {
  const ModelFile* model;
  std::uint32_t keep;           // positions of a head, the sinks among them; at most half of the prefix
  std::uint32_t tail_keep;      // the same of the rows after it
  std::filesystem::path place;  // uncompressed values go to a file without a name beside it
  // Runs done of all runs of the text; of the prefill PrefillOptions says how far it is. Returning false stops
  // (kInterrupted).
  std::function<bool(std::size_t done, std::size_t total)> on_progress = {};
};

// kNotFinite, if the model's numbers are not finite.
format::Result<CalibrationTable> measure_calibration(const CalibrationRequest& request, const CalibrationText& text,
                                                     PrefillRunner& runner, PrefillOptions prefill_options,
                                                     core::Workers& workers);

}  // namespace polykv::runtime
