// What a calibration has finished so far, so that the same command can go on from there: the tables of its first texts
// as JSON, schema polykv.calibration-part/1, with a digest of everything that they depend on.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "cli/runtime/retention/calibration.h"
#include "format/status.h"

namespace polykv::runtime {

// What is the same for all texts of a calibration.
struct CalibrationInputs {
  std::string digest;  // hex, over model, texts, positions kept, runner and kernels
  std::uint32_t num_layers;
  std::array<std::vector<const RetentionPolicy*>, kNumPhases> policies;
};

// Numbers as they are, to the last bit: a plan is the same whether its making was interrupted or not.
std::string calibration_part_text(const CalibrationInputs& inputs, std::span<const CalibrationTable> tables);

// kMismatch: of other inputs; kMalformed, naming the place; kUnsupportedVersion.
format::Result<std::vector<CalibrationTable>> parse_calibration_part(std::span<const std::byte> text,
                                                                     const CalibrationInputs& inputs);

}  // namespace polykv::runtime
