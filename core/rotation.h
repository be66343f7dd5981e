// The orthogonal transform applied to keys, values and queries before codes: random signs, then normalised
// Walsh-Hadamard blocks of the largest power of two that divides head_dim. spec/codecs.md, "Rotation".
//
// Every step is an addition, a subtraction or one multiplication of two elements, in a pinned order: any vector width
// gives the same bits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "format/shape.h"

namespace polykv::core {

// In place. vector.size() is head_dim: a multiple of 8, at most format::kMaxHeadDim.
void rotate(std::span<float> vector);

// The inverse: unrotate(rotate(x)) is x but for rounding.
void unrotate(std::span<float> vector);

// The same on 16 vectors at once, vectors [head_dim][16]; bit for bit what rotate and unrotate give for each.
void rotate_16(std::span<float> vectors);
void unrotate_16(std::span<float> vectors);

// Largest power of two that divides head_dim.
constexpr std::size_t rotation_block(std::size_t head_dim) { return head_dim & (~head_dim + 1); }

// 1.0f or -1.0f for each dimension, the same for every layer, head and head_dim.
extern const std::array<float, format::kMaxHeadDim> kRotationSigns;

}  // namespace polykv::core
