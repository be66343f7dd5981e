// What a controller's calibration has finished so far, so that the same command can go on from there: the labelled
// cards of its first pools as JSON, schema polykv.card-labels/1, with a digest of everything that they depend on.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "cli/runtime/cards/controller_training.h"
#include "format/status.h"

namespace polykv::runtime {

// Numbers as they are, to the last bit: a controller is the same whether its making was interrupted or not.
std::string labels_part_text(const std::string& inputs_digest, std::span<const LabelledPool> pools);

// kMismatch: of other inputs; kMalformed, naming the place; kUnsupportedVersion.
format::Result<std::vector<LabelledPool>> parse_labels_part(std::span<const std::byte> text,
                                                            const std::string& inputs_digest);

}  // namespace polykv::runtime
