// Ends an answer at a stop string, whatever the pieces in which its text comes.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polykv::runtime {

// Holds back text that may become a stop string.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // Adds text; returns what is certain. Once a stop string is complete, stopped() is true and nothing more comes out.
  std::string add(std::string_view text);
  std::string finish();  // what was held back, if no stop string came
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace polykv::runtime
