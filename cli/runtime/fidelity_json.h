// The fidelity section of a pool: JSON, whose names scripts rely on.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "cli/runtime/probes.h"
#include "cli/runtime/sensitivity.h"

namespace polykv::runtime {

// Changed with the protocol: numbers of another one cannot be compared.
inline constexpr const char* kProbeProtocol = "polykv.probes/1";

// What was measured, besides the numbers.
struct ProbeProtocol {
  std::string prefill_type, prefill_runner, kernels;
};

// How the plan of a pool was chosen, for who wants to see why.
struct PlanRecord {
  std::string choice;  // choice_name
  std::span<const Sensitivity> sensitivities;
  double expected_kld = 0.0;
};
nlohmann::ordered_json plan_json(const PlanRecord& plan);

nlohmann::ordered_json divergence_json(const Divergence& divergence);
nlohmann::ordered_json fidelity_json(const Fidelity& fidelity, const ProbeProtocol& protocol, std::uint32_t num_tokens);

// How much a pool's fidelity was measured on: the same positions can be measured again. nullopt: nothing was measured,
// or by another protocol. Any JSON is taken; no count is above the default.
std::optional<ProbeCounts> counts_of(const nlohmann::ordered_json& fidelity);

}  // namespace polykv::runtime
