// stats --measure: fidelity once more, from the pool's own tokens.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands/desk.h"
#include "cli/options.h"
#include "cli/report.h"
#include "format/status.h"

namespace polykv::cli {

// Prefills the document again, in the recorded number type and by the recorded runner where it is at hand, and measures
// the pool against that: the probes, as many positions as `stored` was measured on, or options.text. The JSON of a
// fidelity section. A line says so where another runner than the recorded one prefills.
format::Result<nlohmann::ordered_json> measure_fidelity(const std::string& path, const Options& options, Desk& desk,
                                                        const nlohmann::ordered_json& stored, Report& report);

// A probe that was made twice.
struct Agreement {
  std::string probe;
  double stored, measured, bound;  // mean KL divergences, and how far they may be apart
  bool holds() const;
};

// Those probes that both have; empty where they cannot be compared.
std::vector<Agreement> compare_fidelity(const nlohmann::ordered_json& stored, const nlohmann::ordered_json& measured);

}  // namespace polykv::cli
