// What a build was asked for: one codec everywhere, or a plan made on the document.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "cli/runtime/codec_plan.h"
#include "cli/runtime/sensitivity.h"
#include "core/codec.h"
#include "format/shape.h"
#include "format/status.h"

namespace polykv::runtime {

// What a plan aims at when nothing is said: with it the default model's answers are nearer to the uncompressed ones
// than with any one codec of 4.8 bits.
inline constexpr double kDefaultBits = 4.25;

// `fixed`, or a plan within one of the other three; none of them: kDefaultBits.
struct CodecChoice {
  CodecChoice() = default;
  CodecChoice(core::CodecPair codec) : fixed(codec) {}

  std::optional<core::CodecPair> fixed = {};
  std::optional<double> bits_per_value = {};     // as `stats` counts it, at most
  std::optional<std::uint64_t> pool_bytes = {};  // of the file, at most
  std::optional<double> max_kld = {};            // of the tail probe, at most

  bool needs_sensitivities() const { return !fixed; }
};

// Of keys and values, of all positions.
double num_values(const format::KvShape& shape);

// In words for the identity: "k5v4", "auto 4.25 bits", "auto 20000000 bytes", "auto KLD 0.001".
std::string choice_name(const CodecChoice& choice);

// Of kDefaultBits for every value that is kept, or of the bytes that k4v4 takes where these are more: in a short
// document padding, sinks and means count for much, and are no reason for coarser codes.
CodecPlan default_plan(const format::KvShape& shape, std::span<const Sensitivity> sensitivities,
                       const KeptPositions& kept = {});

// A plan of at most so many bits a value, or of kv_bytes. kUnusableText: not even one bit for everything fits; the
// message says how many would.
format::Result<CodecPlan> plan_of_bits(const format::KvShape& shape, std::span<const Sensitivity> sensitivities,
                                       double bits_per_value, const KeptPositions& kept = {});
format::Result<CodecPlan> plan_of_bytes(const format::KvShape& shape, std::span<const Sensitivity> sensitivities,
                                        std::uint64_t kv_bytes, const KeptPositions& kept = {});

}  // namespace polykv::runtime
