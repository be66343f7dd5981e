// Evaluation inputs that are not part of the project (../shared/data), and how a test without them says so.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>

namespace polykv::tests {

// Printed lines are counted by `./dev test`: a skipped test is neither passed nor failed. Return from the test after
// it.
inline void skip(std::string_view what) { std::cout << "SKIPPED: " << what << std::endl; }

// The folder of evaluation data, if it is there: $POLYKV_DATA, or ../shared/data beside the checkout.
inline std::optional<std::filesystem::path> data_dir() {
  const char* from_environment = std::getenv("POLYKV_DATA");
  const std::filesystem::path path = from_environment != nullptr
                                         ? std::filesystem::path(from_environment)
                                         : std::filesystem::path(POLYKV_SOURCE_DIR) / ".." / "shared" / "data";
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return std::nullopt;
  return path;
}

}  // namespace polykv::tests
