// A model on disk, mapped: a GGUF file, or a Hugging Face folder (config.json, *.safetensors, tokenizer.json).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/runtime/weights/gguf.h"
#include "cli/runtime/weights/model_config.h"
#include "format/file.h"
#include "format/status.h"

namespace polykv::runtime {

class ModelFile {
 public:
  // Errors: kNotFound, kIo, kBadModelFile (damaged or contradictory), kUnsupportedModel (architecture, tensor type,
  // RoPE scaling, head_dim, sliding window, MoE, ...), each naming the field, what was found and what is supported, and
  // the file where the model is a folder; kUnsupportedTokenizer for a folder without tokenizer.json.
  static format::Result<ModelFile> open(const std::filesystem::path& path);
  ModelFile(ModelFile&&) noexcept;
  ModelFile& operator=(ModelFile&&) noexcept;
  ~ModelFile();

  const std::filesystem::path& path() const;
  const ModelConfig& config() const;
  const ModelWeights& weights() const;

  // The files that hold weights, in a fixed order (shards by name).
  const std::vector<format::MappedFile>& weight_files() const;
  std::vector<std::string> weight_file_names() const;  // base names, same order
  // kChanged, naming the file, if one of them was changed since it was opened (MappedFile::check_unchanged).
  format::Status check_unchanged() const;

  // Where the tokenizer comes from: exactly one is there.
  const GgufFile* gguf() const;                               // null for a folder
  std::span<const std::byte> tokenizer_json() const;          // empty for a GGUF
  std::span<const std::byte> tokenizer_config_json() const;   // may be empty
  std::span<const std::byte> generation_config_json() const;  // may be empty: eos ids of instruct models
  std::span<const std::byte> config_json() const;             // empty for a GGUF
  // The model's own chat template: GGUF tokenizer.chat_template, tokenizer_config.json's chat_template (the one named
  // "default" if there are several) or chat_template.jinja. nullopt: it has none.
  std::optional<std::string> chat_template() const;

 private:
  struct State;
  explicit ModelFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polykv::runtime
