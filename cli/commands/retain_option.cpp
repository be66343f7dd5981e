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
  if (choice.by_head || choice.by_chunk)
    return Error(ErrorCode::kUsage,
                 "build: --retain: +ada and +chunk need --keep; without it each head's positions and "
                 "bits are chosen together");
  if (choice.keeps_all() || options.bits > 0 || options.size) return retain;
  if (!retain.plan) {
    return Error(ErrorCode::kUsage,
                 "build: --retain needs --keep, or --bits or --size for positions and bits together");
  }
  choice.keep_tokens = retain.plan->keep[0];
  return retain;
}

// Is it a file that a policy's place names? Then its layers' policies of the phase; else nothing.
Result<RetainOption> read_plan(std::string_view name, runtime::Phase phase) {
  const bool uniform = name.ends_with(kUniform);
  const std::string path(name.substr(0, name.size() - (uniform ? kUniform.size() : 0)));
  if (!path.ends_with(".json") && path.find('/') == std::string::npos) return RetainOption();
  const auto bytes = format::read_file(path);
  if (!bytes) return in_file(path, bytes.error());
  auto plan = runtime::parse_layer_plan(*bytes);
  if (!plan) return in_file(path, plan.error());
  if (plan->layers(phase).empty())
    return Error(ErrorCode::kMalformed, path + ": the plan has no phase '" + phase_name(phase) + "'");
  RetainOption retain{runtime::RetentionChoice(), std::move(*plan), path};
  retain.choice->by_layer = runtime::layer_policies(*retain.plan, phase, uniform);
  return retain;
}

// Of those that can do it.
std::string policy_names(bool of_tail) {
  std::string names;
  for (const runtime::RetentionPolicy& policy : runtime::retention_policies())
    if (!of_tail || policy.tail_rows) names += (names.empty() ? "" : ", ") + std::string(policy.name);
  return names;
}

}  // namespace

Result<RetainOption> read_retain_option(const Options& options) {
  if (options.retain.empty() && !options.keep.empty())
    return Error(ErrorCode::kUsage, "build: --keep needs --retain NAME");
  if (options.retain.empty()) return RetainOption();
  POLYKV_TRY(RetainOption planned, read_plan(options.retain, runtime::Phase::kPrefill));
  if (planned.plan) return with_keep(std::move(planned), options);
  auto choice = runtime::parse_retention(options.retain);
  if (!choice) {
    return Error(ErrorCode::kUsage, "build: --retain: '" + options.retain + "' is not a policy: auto, " +
                                        policy_names(/*of_tail=*/false) +
                                        "; with +ada, +chunk or +ada+chunk after it; or a plan's file, PLAN.json");
  }
  if (choice->is_auto && !options.keep.empty())
    return Error(ErrorCode::kUsage,
                 "build: --retain auto chooses positions itself: --bits or --size instead of --keep");
  return with_keep({std::move(choice), {}, {}}, options);
}

Result<RetainOption> read_tail_retain_option(const Options& options) {
  if (options.tail_keep != 0 && options.tail_retain.empty())
    return Error(ErrorCode::kUsage, "ask: --tail-keep needs --tail-retain NAME");
  if (options.tail_retain.empty()) return RetainOption();
  POLYKV_TRY(RetainOption retain, read_plan(options.tail_retain, runtime::Phase::kDecode));
  if (!retain.plan) {
    retain.choice = runtime::parse_retention(options.tail_retain);
    if (!retain.choice || retain.choice->is_auto || retain.choice->by_head || !retain.choice->policy->tail_rows) {
      return Error(ErrorCode::kUsage, "ask: --tail-retain: '" + options.tail_retain +
                                          "' is not a policy for a tail: " + policy_names(/*of_tail=*/true) +
                                          "; with +chunk after it; or a plan's file, PLAN.json");
    }
    if (options.tail_keep == 0) return Error(ErrorCode::kUsage, "ask: --tail-retain needs --tail-keep N");
  }
  retain.choice->keep_tokens = options.tail_keep != 0 ? options.tail_keep : retain.plan->keep[1];
  return retain;
}

format::Status check_plan_fits(const RetainOption& retain, const runtime::Model& model) {
  if (!retain.plan) return {};
  const format::Status status = runtime::check_plan_fits(*retain.plan, model);
  return status ? status : in_file(retain.plan_path, status.error());
}

}  // namespace polykv::cli
