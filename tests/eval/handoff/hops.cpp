#include "tests/eval/handoff/hops.h"

#include <algorithm>

#include "cli/runtime/agent.h"
#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/scheduler.h"
#include "format/file.h"

namespace polykv::eval {

using format::Result;
using format::Status;
using runtime::TokenId;

Result<std::unique_ptr<LoadedPool>> LoadedPool::load(const std::filesystem::path& path) {
  POLYKV_TRY(std::vector<std::byte> bytes, format::read_file(path));
  POLYKV_TRY(format::PoolReader reader, format::PoolReader::open(bytes));
  return std::unique_ptr<LoadedPool>(new LoadedPool(std::move(bytes), std::move(reader)));
}

Result<Hops> Hops::start(const Place& place, const LoadedPool& base, Variant variant) {
  POLYKV_TRY(runtime::ChatTemplate chat, runtime::chat_template_of(base.reader.identity(), place.model));
  POLYKV_CHECK_STATUS(runtime::check_fit(base.reader.identity(), place.model, chat));
  POLYKV_TRY(const std::string text, base.reader.source_text());
  const std::vector<std::uint32_t>& ends = base.reader.tokens().text_end;
  return Hops(place, base, std::move(variant), std::move(chat), text.substr(ends.empty() ? 0 : ends.back()));
}

std::vector<const core::KvPool*> Hops::views() const {
  std::vector<const core::KvPool*> views = {&base_.pool};
  for (const auto& card : cards_) views.push_back(&card->pool);
  return views;
}

std::vector<TokenId> Hops::tokens_before() const {
  std::vector<TokenId> tokens = base_.reader.tokens().ids;
  for (const auto& card : cards_) {
    const std::vector<TokenId>& of_card = card->reader.tokens().ids;
    tokens.insert(tokens.end(), of_card.begin(), of_card.end());
  }
  return tokens;
}

Result<Turn> Hops::answer(const std::string& question) {
  Turn turn;
  const runtime::Tokenizer& tokenizer = place_.model.tokenizer;
  turn.question = cards_.empty() ? runtime::make_question_tokens(tokenizer, chat_, open_text_, question)
                                 : runtime::make_next_question_tokens(tokenizer, chat_, question);
  runtime::StepRunner runner(place_.model.file, views(), place_.workers);
  runtime::AnswerOptions options;
  options.max_tokens = place_.max_tokens;
  options.sampling.temperature = 0.0f;
  options.keeps_tail = true;
  POLYKV_TRY(const auto agent, runtime::Agent::start(runner, place_.model.config(), tokenizer, turn.question, options));
  runtime::Scheduler scheduler(runner, place_.workers, place_.model.config().vocab_size);
  runtime::Agent* agents[] = {agent.get()};
  while (!agent->is_finished()) POLYKV_CHECK_STATUS(scheduler.step(agents));
  POLYKV_CHECK_STATUS(agent->complete_tail(runner));
  const auto answered = agent->fed().subspan(turn.question.size());
  turn.answer.assign(answered.begin(), answered.end());
  turn.text = agent->answer().text;
  return turn;
}

Result<std::vector<float>> Hops::go_on(const Turn& turn) {
  const std::size_t vocab = place_.model.config().vocab_size;
  runtime::StepRunner runner(place_.model.file, views(), place_.workers);
  std::vector<TokenId> tokens = turn.question;
  tokens.insert(tokens.end(), turn.answer.begin(), turn.answer.end());
  core::Tail tail = runner.make_tail(place_.model.config().context_length - runner.chain_end());
  runtime::CardRows rows(place_.model.config());
  runner.observe([&](const runtime::StepLayer& step) { rows.add(step, 0, step.num_rows, tail.num_seen() + 1); });
  const std::size_t first_wanted = turn.question.size() - 1;  // the row that tells the answer's first token
  std::vector<float> logits((tokens.size() - first_wanted) * vocab);
  for (std::size_t at = 0; at < tokens.size(); at += runtime::kMaxStepRows) {
    const std::size_t end = std::min(at + runtime::kMaxStepRows, tokens.size());
    const std::size_t wanted = end - std::clamp(first_wanted, at, end);
    float* out = wanted == 0 ? nullptr : logits.data() + (end - wanted - first_wanted) * vocab;
    const runtime::AgentStep step{&tail, std::span(tokens).subspan(at, end - at), runner.everything(), wanted, out};
    POLYKV_CHECK_STATUS(runner.step({&step, 1}));
  }
  runner.observe({});
  POLYKV_CHECK_STATUS(save(turn, runner, tail, rows));
  return logits;
}

Status Hops::save(const Turn& turn, runtime::StepRunner& runner, core::Tail& tail, const runtime::CardRows& rows) {
  const std::vector<const core::KvPool*> chain = views();
  std::vector<TokenId> tokens = turn.question;
  tokens.insert(tokens.end(), turn.answer.begin(), turn.answer.end());
  runtime::CardSpec spec;
  spec.parent = &last();
  spec.chain = chain;
  spec.tokens = runtime::tokens_with_text(place_.model.tokenizer, tokens);
  const std::vector<TokenId> before = tokens_before();
  const Finished finished{&runner, &tail, &rows, {before, tokens, turn.question.size()}};
  POLYKV_TRY(spec.plan, plan_of(variant_, place_.model, chat_, base_.reader, finished, place_.workers));
  const std::filesystem::path path = place_.folder / "card.pkv";
  POLYKV_TRY(runtime::CardWriter writer,
             runtime::CardWriter::create(path, std::move(spec), {.force = true}, place_.workers));
  POLYKV_CHECK_STATUS(writer.write(tail));
  POLYKV_TRY(card_bytes_, writer.finish());
  POLYKV_TRY(auto card, LoadedPool::load(path));
  const format::KvShape& shape = card->reader.shape();
  card_bits_ = 8.0 * static_cast<double>(card->reader.pages().size()) /
               (2.0 * shape.num_layers * shape.num_kv_heads * shape.num_tokens * shape.head_dim);
  cards_.push_back(std::move(card));
  return {};
}

}  // namespace polykv::eval
