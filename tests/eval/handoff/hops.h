// A chain of hand-offs: an agent asks, answers and leaves a card; the next one goes on from it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/runtime/divergence.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/prompt.h"
#include "cli/runtime/step_runner.h"
#include "core/pool.h"
#include "core/workers.h"
#include "format/reader.h"
#include "tests/eval/handoff/variant.h"

namespace polykv::eval {

// A pool's file, whole in memory.
struct LoadedPool {
  std::vector<std::byte> bytes;
  format::PoolReader reader;
  core::KvPool pool;

  static format::Result<std::unique_ptr<LoadedPool>> load(const std::filesystem::path& path);

 private:
  LoadedPool(std::vector<std::byte> bytes_, format::PoolReader reader_)
      : bytes(std::move(bytes_)), reader(std::move(reader_)), pool(reader) {}
};

// One agent's turn.
struct Turn {
  std::vector<runtime::TokenId> question, answer;  // the answer without the token that ends its turn
  std::string text;
};

// What is the same for all chains.
struct Place {
  const runtime::Model& model;
  core::Workers& workers;
  std::filesystem::path folder;  // for cards
  std::uint32_t max_tokens;      // of an answer
};

class Hops {
 public:
  // `base` must outlive the chain.
  static format::Result<Hops> start(const Place& place, const LoadedPool& base, Variant variant);

  // The question's tokens as this chain's next turn; the greedy answer to it.
  format::Result<Turn> answer(const std::string& question);

  // Logits [answer and the token after it][vocab_size] that tell each token of the answer, and what comes after it; the
  // turn's keys and values become a card.
  format::Result<std::vector<float>> go_on(const Turn& turn);

  std::uint64_t card_bytes() const { return card_bytes_; }  // of the last one's file
  double card_bits() const { return card_bits_; }           // of a value in it, pages alone

 private:
  Hops(const Place& place, const LoadedPool& base, Variant variant, runtime::ChatTemplate chat, std::string open_text)
      : place_(place),
        base_(base),
        variant_(std::move(variant)),
        chat_(std::move(chat)),
        open_text_(std::move(open_text)) {}

  std::vector<const core::KvPool*> views() const;
  std::vector<runtime::TokenId> tokens_before() const;
  const format::PoolReader& last() const { return cards_.empty() ? base_.reader : cards_.back()->reader; }
  format::Status save(const Turn& turn, runtime::StepRunner& runner, core::Tail& tail, const runtime::CardRows& rows);

  Place place_;
  const LoadedPool& base_;
  Variant variant_;
  runtime::ChatTemplate chat_;
  std::string open_text_;
  std::vector<std::unique_ptr<LoadedPool>> cards_;
  std::uint64_t card_bytes_ = 0;
  double card_bits_ = 0.0;
};

}  // namespace polykv::eval
