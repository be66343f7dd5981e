// From documents to a published pool: tokenize, prefill layer by layer, choose codecs, quantize, measure, publish.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/runtime/codec_choice.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/model_runner.h"
#include "cli/runtime/prompt.h"
#include "cli/runtime/retention/selection.h"
#include "core/codec.h"
#include "core/workers.h"
#include "format/status.h"
#include "format/writer.h"

namespace polykv::runtime {

struct Document {
  std::string name;  // as shown by inspect: a base name, or "-"
  std::string text;
};

// kUnusableText, naming the document: empty, not UTF-8 (with the offset), or larger than 1 GiB in all.
format::Status check_documents(std::span<const Document> documents);

void add_document_fields(std::span<const Document> documents, format::Identity& identity);

struct BuildRequest {
  const Model* model;
  const ChatTemplate* chat;
  std::optional<std::string> system;
  std::span<const Document> documents;
  CodecChoice codec;
  std::uint64_t created;                          // SOURCE_DATE_EPOCH or 0
  std::optional<RetentionChoice> retention = {};  // empty: everything, or what a small budget asks for
  bool accept_loss = false;                       // of what the recall probe finds lost by retention
  bool probe = false;                             // measure what compression did, and keep it in the pool
  // What comes after the prefill, by name ("quantize", ...), and the share of it that is done. Returning false stops
  // the build (kInterrupted). May be empty.
  std::function<bool(const char* work, double share)> on_progress = {};
};

// Tokens that a pool of these documents holds. Errors: kUnusableText, when they do not fit the model's context (how
// many there are and fit) or there is none.
format::Result<PoolPrompt> make_prompt(const BuildRequest& request);

struct BuildReport {
  std::uint32_t tokens = 0;
  double prefill_ms = 0.0;
  double plan_ms = 0.0;
  double quantize_ms = 0.0;  // quantizing and writing, inside the prefill's layers and after it
  double probe_ms = 0.0;
  std::uint64_t pool_bytes = 0;
};

// Runs the model over `prompt` and publishes the pool at `path`. After an error the old file, if any, is untouched.
// Errors besides those of the parts: kChanged, if the model was changed meanwhile.
format::Result<BuildReport> build_pool(const BuildRequest& request, PoolPrompt prompt, PrefillRunner& runner,
                                       const PrefillOptions& prefill_options, const std::filesystem::path& path,
                                       const format::WriterOptions& writer_options, core::Workers& workers);

}  // namespace polykv::runtime
