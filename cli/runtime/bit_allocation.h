// Bits for the keys and values of every (layer, kv_head): the least expected loss at a size.
//
// The loss of an item is its sensitivity times what its codec loses; bits go where they save most loss a byte, along
// each item's lower convex hull (marginal analysis, Fox 1966; Shoham and Gersho 1988 for quantizers), which is optimal
// for every total that it passes through.
#pragma once

#include <cstdint>
#include <span>

#include "cli/runtime/codec_plan.h"
#include "cli/runtime/sensitivity.h"
#include "core/codec.h"
#include "format/shape.h"

namespace polykv::runtime {

// What the KL divergence of a model's answers grows with when keys or values are in a codec: relative to an error as
// large as the vectors, as Sensitivity wants it. Measured, see spec/retention.md section 6.3: at few bits keys lose
// more than their square error says, since softmax is not linear. Codecs 1 to 8; k8 is not rotated.
double key_codec_loss(format::CodecId codec);
double value_codec_loss(format::CodecId codec);

// The residual stream's relative square error, as Sensitivity counts it, against the KL divergence of the output.
inline constexpr double kKldOfStream = 1.5;

// Expected mean KL divergence, in nats.
double expected_kld(std::span<const Sensitivity> sensitivities, const CodecPlan& plan);

// Bytes of all that is needed to restore the values: pages, sinks, means and layout, as `stats` counts them.
std::uint64_t plan_kv_bytes(const format::KvShape& shape, const CodecPlan& plan, const KeptPositions& kept = {});

// The plan of least loss with plan_kv_bytes at most `kv_bytes`; one bit for everything, if that is too little.
CodecPlan allocate_bytes(const format::KvShape& shape, std::span<const Sensitivity> sensitivities,
                         std::uint64_t kv_bytes, const KeptPositions& kept = {});

// The smallest plan found with expected_kld at most `kld`; 7 and 8 bits for everything, if that is too little.
CodecPlan allocate_loss(const format::KvShape& shape, std::span<const Sensitivity> sensitivities, double kld,
                        const KeptPositions& kept = {});

}  // namespace polykv::runtime
