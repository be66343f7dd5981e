// polykv flatten CARD -o POOL: a pool and those that it extends as one.
#include "cli/runtime/cards/flatten.h"

#include <nlohmann/json.hpp>

#include "cli/commands/card_options.h"
#include "cli/commands/commands.h"
#include "cli/commands/output_options.h"
#include "cli/commands/pool_chain.h"

namespace polykv::cli {

using format::Error;
using format::ErrorCode;

int run_flatten(const Options& options, Report& report) {
  const std::string& path = options.operands.front();
  if (const auto status = refuse_existing(options.output, options); !status)
    return report.error(options.output, status.error());
  const auto chain = open_pool_chain(path, {options.trust, options.pool_path}, report);
  if (!chain) return report.error(path, chain.error());
  if (chain->size() == 1) return report.error(path, Error(ErrorCode::kUsage, "it extends no other pool"));
  if (const auto status = refuse_parent(options.output, *chain); !status) return report.error({}, status.error());

  const std::vector<const core::KvPool*> views = chain->views();
  std::vector<runtime::ChainLink> links;
  for (std::size_t i = 0; i < chain->size(); ++i) links.push_back({&chain->file(i).reader, views[i]});
  const auto flat =
      runtime::flatten(links, options.output, {.force = options.force, .mode = options.mode}, source_date_epoch());
  if (!flat) return report.error(options.output, flat.error());
  if (const auto unchanged = chain->check_unchanged(); !unchanged) return report.error(path, unchanged.error());
  std::error_code ignored;
  const std::uint64_t bytes = std::filesystem::file_size(options.output, ignored);
  if (options.json) {
    report.print_line({{"schema", "polykv.flatten/1"},
                       {"pool", options.output},
                       {"card", path},
                       {"pools", chain->size()},
                       {"tokens", views.back()->end_position()},
                       {"pool_bytes", bytes}});
  } else {
    report.notice(options.output, with_commas(chain->size()) + " pools, " + with_commas(views.back()->end_position()) +
                                      " tokens, " + short_bytes(bytes));
  }
  return 0;
}

}  // namespace polykv::cli
