// How many positions each layer keeps, of a number for all of them together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polykv::runtime {

// Positions of each layer's heads on average: each gets `least` and at most `most`; the sum is `total`, or what the
// limits allow (of share_everything it is what all layers have).
using ShareBudget = std::vector<std::uint32_t> (*)(std::uint64_t total, std::span<const double> weights,
                                                   std::uint32_t least, std::uint32_t most);

// What is above `least` is shared out by weight; a layer that would get more than `most` is filled, and the others
// share the rest. Fractions go to the largest remainder, of equal ones to the first. Weights of which none is above
// zero count as equal.
std::vector<std::uint32_t> share_out(std::uint64_t total, std::span<const double> weights, std::uint32_t least,
                                     std::uint32_t most);

// PyramidKV: what is above `least` falls on a straight line from the first layer to the last.
std::vector<std::uint32_t> share_pyramid(std::uint64_t total, std::span<const double> weights, std::uint32_t least,
                                         std::uint32_t most);

// D2O: the first two layers and the last are kept whole where that takes no more than half of all.
std::vector<std::uint32_t> share_d2o(std::uint64_t total, std::span<const double> weights, std::uint32_t least,
                                     std::uint32_t most);

// FullKV: `most` everywhere, whatever the total.
std::vector<std::uint32_t> share_everything(std::uint64_t total, std::span<const double> weights, std::uint32_t least,
                                            std::uint32_t most);

}  // namespace polykv::runtime
