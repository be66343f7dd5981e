#include "cli/runtime/fidelity_json.h"

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace polykv::runtime {

using nlohmann::ordered_json;

namespace {

// Four digits, so that long lists stay small.
double rounded(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", number);
  return std::strtod(text, nullptr);
}

}  // namespace

ordered_json plan_json(const PlanRecord& plan) {
  ordered_json keys = ordered_json::array(), values = ordered_json::array();
  for (const Sensitivity& sensitivity : plan.sensitivities) {
    keys.push_back(rounded(sensitivity.key));
    values.push_back(rounded(sensitivity.value));
  }
  return {{"choice", plan.choice},
          {"rows", kSensitivityRows},
          {"expected_kld", rounded(plan.expected_kld)},
          {"sensitivities", {{"key", std::move(keys)}, {"value", std::move(values)}}}};
}

ordered_json divergence_json(const Divergence& divergence) {
  return {{"positions", divergence.positions},
          {"kld_mean", divergence.kld_mean},
          {"kld_stderr", divergence.kld_stderr},
          {"kld_p99", divergence.kld_p99},
          {"kld_max", divergence.kld_max},
          {"same_top", divergence.same_top},
          {"same_top_stderr", divergence.same_top_stderr},
          {"rms_dp", divergence.rms_dp},
          {"ppl_ratio", divergence.ppl_ratio},
          {"ppl_ratio_stderr", divergence.ppl_ratio_stderr}};
}

ordered_json fidelity_json(const Fidelity& fidelity, const ProbeProtocol& protocol, std::uint32_t num_tokens) {
  ordered_json json;
  json["protocol"] = {{"version", kProbeProtocol},
                      {"prefill_type", protocol.prefill_type},
                      {"prefill_runner", protocol.prefill_runner},
                      {"kernels", protocol.kernels},
                      {"partial_positions", kPartialPositions},
                      {"floor_partial_positions", kFloorPartialPositions},
                      {"floor_positions", std::min(kFloorPositions, fidelity.tail.positions)},
                      {"tail_begin", tail_begin(num_tokens)},
                      {"questions", kProbeQuestions},
                      {"answer_tokens", fidelity.counts.answer_tokens},
                      {"passage_begins", fidelity.passage_begins},
                      {"passage_tokens", fidelity.counts.passage_tokens},
                      {"passage_prompt_tokens", kPromptTokens}};
  json["tail"] = divergence_json(fidelity.tail);
  if (fidelity.has_twin) json["tail"]["twin"] = true;
  json["tail"]["floor_kld_mean"] = fidelity.floor_kld_mean;
  json["tail"]["kld_by_position"] = ordered_json::array();
  for (const double kld : fidelity.tail_klds) json["tail"]["kld_by_position"].push_back(rounded(kld));
  json["answers"] = divergence_json(fidelity.answers);
  json["answers"]["first_difference"] = ordered_json::array();
  for (const auto& index : fidelity.first_difference)
    json["answers"]["first_difference"].push_back(index ? ordered_json(*index) : ordered_json());
  json["recall"] = divergence_json(fidelity.recall);
  json["recall"]["hits"] = fidelity.hits;
  json["recall"]["reference_hits"] = fidelity.reference_hits;
  return json;
}

std::optional<ProbeCounts> counts_of(const ordered_json& fidelity) {
  const auto at = [&](const char* object, const char* name) -> const ordered_json* {
    const auto outer = fidelity.is_object() ? fidelity.find(object) : fidelity.end();
    if (outer == fidelity.end() || !outer->is_object()) return nullptr;
    const auto inner = outer->find(name);
    return inner == outer->end() ? nullptr : &*inner;
  };
  const ordered_json* version = at("protocol", "version");
  if (version == nullptr || *version != kProbeProtocol) return std::nullopt;
  const auto count = [&](const char* object, const char* name, std::uint32_t most) {
    const ordered_json* value = at(object, name);
    return value != nullptr && value->is_number_unsigned()
               ? static_cast<std::uint32_t>(std::min<std::uint64_t>(value->get<std::uint64_t>(), most))
               : 0;
  };
  const ProbeCounts all;
  // A twin is made with the pool, and cannot be made again from it.
  return ProbeCounts{at("tail", "twin") != nullptr ? 0 : count("tail", "positions", all.tail_positions),
                     count("protocol", "answer_tokens", all.answer_tokens),
                     count("protocol", "passage_tokens", all.passage_tokens)};
}

}  // namespace polykv::runtime
