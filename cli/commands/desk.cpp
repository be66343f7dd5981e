#include "cli/commands/desk.h"

#include <sys/stat.h>

#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/model_locator.h"
#include "cli/runtime/prompt.h"

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

// Text of the pool after its last token, and of the template before any. After an answer there is none.
format::Result<std::optional<std::string>> open_text_of(const format::PoolReader& pool) {
  const format::Identity& identity = pool.identity();
  if (identity.get(runtime::kTurnField) == runtime::kAnswerTurn) return std::optional<std::string>();
  std::string open_text(identity.get(runtime::kOpenPrefixField).value_or(""));
  POLYKV_TRY(const std::string text, pool.source_text());
  const std::vector<std::uint32_t>& ends = pool.tokens().text_end;
  return std::optional(open_text + text.substr(ends.empty() ? 0 : ends.back()));
}

}  // namespace

std::vector<runtime::TokenId> Desk::question_tokens(std::string_view question) const {
  if (!open_text) return runtime::make_next_question_tokens(model.tokenizer, chat, question);
  return runtime::make_question_tokens(model.tokenizer, chat, *open_text, question);
}

format::Result<std::unique_ptr<Desk>> open_desk(const std::string& path, const Options& options, Report& report) {
  POLYKV_TRY(PoolChain chain, open_pool_chain(path, {options.trust, options.pool_path, model_owner(options)}, report));
  const format::Identity& identity = chain.last().reader.identity();
  if (options.template_name == "none" && identity.get("template.name") != "none") {
    return Error(ErrorCode::kMismatch, "template.name is " + std::string(identity.get("template.name").value_or("")) +
                                           " in the pool: --template none is only for a pool built with it");
  }
  POLYKV_TRY(auto model, runtime::open_model_for(identity, options.model));
  POLYKV_TRY(auto chat, runtime::chat_template_of(identity, model));
  POLYKV_CHECK_STATUS(runtime::check_fit(identity, model, chat));
  POLYKV_TRY(std::optional<std::string> open_text, open_text_of(chain.last().reader));
  return std::make_unique<Desk>(std::move(chain), std::move(model), std::move(chat), std::move(open_text),
                                options.threads != 0 ? options.threads : core::default_num_threads());
}

format::Status require_base(const Desk& desk, const char* what) {
  if (desk.chain.size() == 1) return {};
  return Error(ErrorCode::kUsage, std::string(what) +
                                      " needs a pool that stands alone, and this one extends another: polykv flatten "
                                      "makes one of them");
}

}  // namespace polykv::cli
