// Which positions of the document a pool keeps, in words and numbers.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "format/layout.h"
#include "format/reader.h"

namespace polykv::cli {

struct KeptSummary {
  std::uint32_t num_tokens = 0;
  std::vector<double> by_layer;            // positions of a head on average, sinks and all
  std::uint32_t fewest = 0, most = 0;      // of any head
  std::uint32_t kept_by_none = 0;          // positions that no head of no layer keeps
  std::vector<std::uint32_t> by_position;  // [position]: how many (layer, kv_head) keep it

  double mean() const;
  bool keeps_all() const { return fewest == num_tokens; }
};

KeptSummary summarize_kept(const format::PoolReader& reader);

// For `stats`, if anything was dropped: how much, where, and what it did to recall. Any JSON is taken for fidelity.
std::string kept_text(const KeptSummary& kept, const nlohmann::ordered_json& fidelity);
nlohmann::ordered_json kept_json(const KeptSummary& kept);

}  // namespace polykv::cli
