#include "cli/commands/desk.h"

#include <sys/stat.h>

#include "cli/runtime/model_locator.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;

// The owner of the model file that will probably be used: a pool of that owner is as trustworthy as the model.
std::uint32_t model_owner(const Options& options) {
  const std::string path = options.model.empty() ? runtime::default_model_path().string() : options.model;
  struct stat information {};
  return stat(path.c_str(), &information) == 0 ? information.st_uid : ~std::uint32_t{0};
}

}  // namespace

format::Result<std::unique_ptr<Desk>> open_desk(const std::string& path, const Options& options, Report& report) {
  POLYKV_TRY(auto pool, open_pool_file(path, options.trust, report, model_owner(options)));
  const format::Identity& identity = pool->reader.identity();
  if (options.template_name == "none" && identity.get("template.name") != "none") {
    return Error(ErrorCode::kMismatch, "template.name is " + std::string(identity.get("template.name").value_or("")) +
                                           " in the pool: --template none is only for a pool built with it");
  }
  POLYKV_TRY(auto model, runtime::open_model_for(identity, options.model));
  POLYKV_TRY(auto chat, runtime::chat_template_of(identity, model));
  POLYKV_CHECK_STATUS(runtime::check_fit(identity, model, chat));
  std::string open_text(identity.get("prompt.open_prefix").value_or(""));
  POLYKV_TRY(const std::string text, pool->reader.source_text());
  const std::vector<std::uint32_t>& ends = pool->reader.tokens().text_end;
  open_text += std::string_view(text).substr(ends.empty() ? 0 : ends.back());
  return std::make_unique<Desk>(std::move(pool), std::move(model), std::move(chat), std::move(open_text),
                                options.threads != 0 ? options.threads : core::default_num_threads());
}

}  // namespace polykv::cli
