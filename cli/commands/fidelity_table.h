// The probes of a pool's fidelity as HTML tables.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace polykv::cli {

// Any JSON is taken and escaped; null, or one without probes, gives a sentence.
std::string probe_tables(const nlohmann::ordered_json& fidelity);

}  // namespace polykv::cli
