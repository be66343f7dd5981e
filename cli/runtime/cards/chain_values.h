// The keys and values of a chain of pools as numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/pool.h"
#include "format/status.h"

namespace polykv::runtime {

// One head of pool `index` of the chain alone: keys and values [its tokens][head_dim]. Errors as below.
format::Status dequantize_pool(std::span<const core::KvPool* const> chain, std::size_t index, std::uint32_t layer,
                               std::uint32_t kv_head, std::span<float> keys, std::span<float> values);

// One head, every position of the chain: keys and values [end of the chain][head_dim]. kUnsupportedFeature: a policy
// dropped some, which have no value; kBadChecksum.
format::Status dequantize_chain(std::span<const core::KvPool* const> chain, std::uint32_t layer, std::uint32_t kv_head,
                                std::span<float> keys, std::span<float> values);

}  // namespace polykv::runtime
