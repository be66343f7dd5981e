// Fidelity for a person: a small table.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace polykv::cli {

// Rows of a pool's fidelity, or of what was measured now, under `title`; any JSON is taken. Fits 80 columns.
std::string fidelity_text(const std::string& title, const nlohmann::ordered_json& fidelity);

}  // namespace polykv::cli
