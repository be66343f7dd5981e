#include "cli/runtime/retention/layer_budgets.h"

#include <algorithm>
#include <cmath>

namespace polykv::runtime {
namespace {

// The exact parts of `left` for those that have room, by weight; zero for the others.
std::vector<double> exact_parts(std::uint64_t left, std::span<const double> weights,
                                std::span<const std::uint32_t> rooms) {
  double sum = 0.0, open = 0.0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (rooms[i] == 0) continue;
    sum += weights[i];
    open += 1.0;
  }
  std::vector<double> parts(weights.size(), 0.0);
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (rooms[i] > 0) parts[i] = static_cast<double>(left) * (sum > 0.0 ? weights[i] / sum : 1.0 / open);
  return parts;
}

}  // namespace

std::vector<std::uint32_t> share_out(std::uint64_t total, std::span<const double> weights, std::uint32_t least,
                                     std::uint32_t most) {
  const std::size_t count = weights.size();
  std::vector<std::uint32_t> shares(count, least), rooms(count, most - std::min(most, least));
  const auto give = [&](std::size_t i, std::uint32_t part) {
    shares[i] += part;
    rooms[i] -= part;
  };
  std::uint64_t left = total - std::min(total, std::uint64_t{least} * count);
  while (left > 0 && std::any_of(rooms.begin(), rooms.end(), [](std::uint32_t room) { return room > 0; })) {
    const std::vector<double> parts = exact_parts(left, weights, rooms);
    // Who would get more than there is room for is filled, and the rest is shared out again.
    bool filled = false;
    for (std::size_t i = 0; i < count; ++i) {
      if (parts[i] <= rooms[i]) continue;
      filled = true;
      left -= rooms[i];
      give(i, rooms[i]);
    }
    if (filled) continue;
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < count; ++i) {
      const double whole = std::floor(parts[i]);
      if (parts[i] > 0.0) order.push_back(i);
      left -= static_cast<std::uint64_t>(whole);
      give(i, static_cast<std::uint32_t>(whole));
    }
    const auto remainder = [&](std::size_t i) { return parts[i] - std::floor(parts[i]); };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return remainder(a) > remainder(b); });
    for (const std::size_t i : order) {
      if (left == 0 || rooms[i] == 0) continue;
      give(i, 1);
      --left;
    }
  }
  return shares;
}

}  // namespace polykv::runtime
