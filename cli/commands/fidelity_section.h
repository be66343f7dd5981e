// A pool's fidelity section, read with care: it is JSON that anyone may have written.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/sensitivity.h"
#include "format/status.h"

namespace polykv::cli {

// The section's JSON; null if nothing was measured. kMalformed: it is no object, or nested more than 8 deep.
format::Result<nlohmann::ordered_json> parse_fidelity(std::string_view text);

// The object or the number of that name in `object`; null and NaN if there is none, or another type.
const nlohmann::ordered_json* object_at(const nlohmann::ordered_json& object, const char* name);
double number_at(const nlohmann::ordered_json& object, const char* name);
std::string text_at(const nlohmann::ordered_json& object, const char* name);  // empty if there is none

// What the plan was made from. Empty unless there are exactly `num_heads` for keys and for values, each from 0 to 1e9.
std::vector<runtime::Sensitivity> stored_sensitivities(const nlohmann::ordered_json& fidelity, std::size_t num_heads);

// The tail probe's divergence at each scored position. Empty unless all are numbers, 0 (or rounded to just below) to
// kMostKld.
inline constexpr double kMostKld = 1e6;
std::vector<double> stored_kld_by_position(const nlohmann::ordered_json& fidelity);

}  // namespace polykv::cli
