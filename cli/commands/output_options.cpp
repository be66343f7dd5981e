#include "cli/commands/output_options.h"

#include <cstdlib>
#include <filesystem>

namespace polykv::cli {

format::Status refuse_existing(const std::string& output, const Options& options) {
  std::error_code ignored;
  const std::filesystem::path folder = std::filesystem::path(output).parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder, ignored))
    return format::Error(format::ErrorCode::kNotFound, "cannot open its folder: No such file or directory");
  if (options.force || !std::filesystem::exists(std::filesystem::symlink_status(output, ignored))) return {};
  return format::Error(format::ErrorCode::kExists, "exists already; --force replaces it");
}

std::uint64_t source_date_epoch() {
  const char* text = std::getenv("SOURCE_DATE_EPOCH");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

runtime::NumberType prefill_type(const Options& options) {
  if (options.prefill_type.empty()) return runtime::default_prefill_type();
  return options.prefill_type == "bf16" ? runtime::NumberType::kBF16 : runtime::NumberType::kF32;
}

}  // namespace polykv::cli
