#include "cli/commands/retain_option.h"

#include "format/file.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;

constexpr std::string_view kUniform = "+uniform";

Error in_file(const std::string& path, const Error& error) {
  return Error(error.code, error.offset, path + ": " + error.message);
}

// --keep, and whether it may be left out.
Result<RetainOption> with_keep(RetainOption retain, const Options& options) {
  runtime::RetentionChoice& choice = *retain.choice;
  if (!options.keep.empty()) {
    if (runtime::parse_keep(options.keep, choice)) return retain;
    return Error(ErrorCode::kUsage, "build: --keep: '" + options.keep + "' is neither tokens (512) nor a share (25%)");
  }
  if (choice.is_auto || choice.keeps_all() || options.bits > 0 || options.size) return retain;
  if (!retain.plan) {
    return Error(ErrorCode::kUsage,
                 "build: --retain needs --keep, or --bits or --size for positions and bits together");
  }
  choice.keep_tokens = retain.plan->keep;
  return retain;
}

Result<RetainOption> read_plan(const std::string& path, bool uniform, const Options& options) {
  const auto bytes = format::read_file(path);
  if (!bytes) return in_file(path, bytes.error());
  auto plan = runtime::parse_layer_plan(*bytes);
  if (!plan) return in_file(path, plan.error());
  RetainOption retain{runtime::RetentionChoice(), std::move(*plan), path};
  retain.choice->by_layer = runtime::layer_policies(*retain.plan, uniform);
  return with_keep(std::move(retain), options);
}

std::string policy_names() {
  std::string names;
  for (const runtime::RetentionPolicy& policy : runtime::retention_policies())
    names += (names.empty() ? "" : ", ") + std::string(policy.name);
  return names;
}

}  // namespace

Result<RetainOption> read_retain_option(const Options& options) {
  if (options.retain.empty() && !options.keep.empty())
    return Error(ErrorCode::kUsage, "build: --keep needs --retain NAME");
  if (options.retain.empty()) return RetainOption();
  const bool uniform = options.retain.ends_with(kUniform);
  const std::string path = options.retain.substr(0, options.retain.size() - (uniform ? kUniform.size() : 0));
  if (path.ends_with(".json") || path.find('/') != std::string::npos) return read_plan(path, uniform, options);
  auto choice = runtime::parse_retention(options.retain);
  if (!choice) {
    return Error(ErrorCode::kUsage, "build: --retain: '" + options.retain + "' is not a policy: auto, " +
                                        policy_names() +
                                        "; with +ada, +chunk or +ada+chunk after it; or a plan's file, PLAN.json");
  }
  if (choice->is_auto && !options.keep.empty())
    return Error(ErrorCode::kUsage,
                 "build: --retain auto chooses positions itself: --bits or --size instead of --keep");
  return with_keep({std::move(choice), {}, {}}, options);
}

format::Status check_plan_fits(const RetainOption& retain, const runtime::Model& model) {
  if (!retain.plan) return {};
  const format::Status status = runtime::check_plan_fits(*retain.plan, model);
  return status ? status : in_file(retain.plan_path, status.error());
}

}  // namespace polykv::cli
