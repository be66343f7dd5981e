#include "cli/runtime/stop_filter.h"

#include <algorithm>

namespace polykv::runtime {

std::string StopFilter::add(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  std::size_t first_stop = std::string::npos;
  for (const std::string& stop : stops_) first_stop = std::min(first_stop, held_.find(stop));
  if (first_stop != std::string::npos) {
    stopped_ = true;
    return std::exchange(held_, {}).substr(0, first_stop);
  }
  // Keep the longest end that begins some stop string.
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t size = std::min(stop.size() - 1, held_.size()); size > keep; --size) {
      if (std::string_view(held_).substr(held_.size() - size) == std::string_view(stop).substr(0, size)) keep = size;
    }
  }
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return certain;
}

std::string StopFilter::finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }

}  // namespace polykv::runtime
