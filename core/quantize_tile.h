// 16 vectors to codes and scales, and back: the arithmetic of spec/codecs.md, "Quantizing", without any byte order.
//
// A tile is [head_dim][16 positions], so that every step is the same operation on 16 neighbours and vectorizes on any
// machine to the same bits. Unused positions hold zeros and come out as zero scales and zero codes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polykv::core {

inline constexpr std::size_t kTileLanes = 16;

// Rotated codecs of 6 to 8 bits. tile [head_dim][16] is rotated in place. (1 to 5: core/kernels/trellis_quantizer.h.)
//   codes [head_dim][16]    scales [16] float16 bits, infinite if a scale does not fit
void quantize_rotated_tile(unsigned bits, float* tile, std::size_t head_dim, std::uint8_t* codes,
                           std::uint16_t* scales);

// k8. codes [head_dim][16] two's complement    scales [ceil(head_dim / 32)][16] float16 bits
void quantize_q8_tile(const float* tile, std::size_t head_dim, std::uint8_t* codes, std::uint16_t* scales);

// The inverses, bits 1 to 8. tile [head_dim][16] float, rotation undone.
//   scales [16], for q8 [ceil(head_dim / 32)][16]
void dequantize_rotated_tile(unsigned bits, const std::uint8_t* codes, const float* scales, std::size_t head_dim,
                             float* tile);
void dequantize_q8_tile(const std::uint8_t* codes, const float* scales, std::size_t head_dim, float* tile);

}  // namespace polykv::core
