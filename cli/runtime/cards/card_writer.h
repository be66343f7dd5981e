// A card: what was added to a pool, as a small pool that extends it (spec/pool-format.md, "Parent"). The CacheCard of
// arXiv 2605.03884, made a file: precision of each token, model, sender and position are all in it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/runtime/codec_plan.h"
#include "cli/runtime/layer_writer.h"
#include "core/pool.h"
#include "core/tail.h"
#include "core/workers.h"
#include "format/identity.h"
#include "format/reader.h"
#include "format/status.h"
#include "format/tokens.h"
#include "format/writer.h"

namespace polykv::runtime {

// Fields of a card's identity, in no fingerprint.
inline constexpr const char* kParentNameField = "parent.name";  // the parent's file name when the card was made
inline constexpr const char* kSenderField = "card.sender";
inline constexpr const char* kBitsField = "card.bits";    // as they were asked for
inline constexpr const char* kTurnField = "prompt.turn";  // kAnswerTurn, if the next token begins a new turn
inline constexpr const char* kAnswerTurn = "answer";

struct CardSpec {
  const format::PoolReader* parent;
  std::string parent_name;
  std::span<const core::KvPool* const> chain;  // base first, the parent last
  format::Tokens tokens;
  TokenPlan plan;
  format::Identity fields = {};  // besides those that are the parent's too
  std::uint64_t created = 0;
};

class CardWriter {
 public:
  // Errors: those of PoolWriter::create. What the card extends and the workers must outlive the writer.
  static format::Result<CardWriter> create(const std::filesystem::path& path, CardSpec spec,
                                           const format::WriterOptions& options, core::Workers& workers);

  // Layers in order, in parts or all at once.
  LayerWriter& layers() { return *layers_; }
  // All layers, as they are in an agent's tail that dropped nothing.
  format::Status write(const core::Tail& tail);

  // What is written, before it is published: good until then.
  format::Result<core::KvPool> view();

  // Publishes; the file's bytes. `fidelity` is JSON text, may be empty.
  format::Result<std::uint64_t> finish(std::string_view fidelity = {});

 private:
  CardWriter(const format::KvShape& shape, std::uint32_t first_position, std::unique_ptr<format::PoolWriter> writer,
             std::unique_ptr<LayerWriter> layers, std::size_t num_threads)
      : shape_(shape),
        first_position_(first_position),
        writer_(std::move(writer)),
        layers_(std::move(layers)),
        buffers_(num_threads) {}

  struct Buffer {
    std::vector<std::uint16_t> keys, values;
  };

  format::KvShape shape_;
  std::uint32_t first_position_;
  std::unique_ptr<format::PoolWriter> writer_;  // stays where it is when the card's writer moves
  std::unique_ptr<LayerWriter> layers_;
  std::vector<Buffer> buffers_;  // [workers]
};

}  // namespace polykv::runtime
