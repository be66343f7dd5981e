// The files of a Hugging Face folder: which there are, and the tensors of its safetensors files.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/runtime/weights/safetensors.h"
#include "cli/runtime/weights/tensor_table.h"
#include "format/file.h"
#include "format/status.h"

namespace polykv::runtime {

// config.json and its like: read whole, at most 64 MB (an index of 1,000 tensors has 0.1 MB). A missing file is empty,
// or kBadModelFile if it is `required`. Messages begin with `name`.
format::Result<std::vector<std::byte>> read_small_file(const std::filesystem::path& folder, const char* name,
                                                       bool required);

// tokenizer.json, mapped: 7 to 17 MB for vocabularies of 128,000 and more, too much for each process to hold a copy.
format::Result<format::MappedFile> map_tokenizer(const std::filesystem::path& folder);

struct HfWeights {
  std::vector<std::string> names;         // base names, ascending
  std::vector<format::MappedFile> files;  // same order
  std::vector<SafetensorsFile> parsed;    // same order; views into files
};

// model.safetensors, or the files that model.safetensors.index.json names. With an index, the tensors of the files are
// exactly those of the index, each in the file that the index says.
format::Result<HfWeights> open_hf_weights(const std::filesystem::path& folder);

// All tensors; views into `weights`, which must outlive the table.
format::Result<TensorTable> hf_tensor_table(const HfWeights& weights);

// chat_template.jinja, else tokenizer_config.json's chat_template (a text, or a list of named ones: "default" counts).
format::Result<std::optional<std::string>> hf_chat_template(const std::filesystem::path& folder,
                                                            const std::vector<std::byte>& tokenizer_config);

}  // namespace polykv::runtime
