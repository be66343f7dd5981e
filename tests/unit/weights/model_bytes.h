// Model files made in memory, whole or broken, and folders to put them in.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace polykv::tests {

using Bytes = std::vector<std::byte>;

inline std::filesystem::path models_dir() { return std::filesystem::path(POLYKV_SOURCE_DIR) / "fixtures" / "models"; }

inline Bytes to_bytes(std::string_view text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return Bytes(begin, begin + text.size());
}

inline Bytes read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  return to_bytes(text);
}

inline void write_bytes(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

// Removed with everything in it.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "polykv-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

template <typename T>
void append(Bytes& out, T value) {
  out.resize(out.size() + sizeof value);
  std::memcpy(out.data() + out.size() - sizeof value, &value, sizeof value);
}

inline void append_text(Bytes& out, std::string_view text) {
  append<std::uint64_t>(out, text.size());
  for (const char c : text) out.push_back(static_cast<std::byte>(c));
}

// A GGUF, key by key. Nothing is checked: tests write what no writer would.
struct GgufBuilder {
  std::uint32_t magic = 0x46554747, version = 3;
  std::uint64_t num_keys = 0, num_tensors = 0;
  std::uint64_t alignment = 32;  // of the padding written; the key is written by u32("general.alignment", ...)
  Bytes keys, infos, data;

  void key(std::string_view name, std::uint32_t type) {
    append_text(keys, name);
    append<std::uint32_t>(keys, type);
    ++num_keys;
  }
  template <typename T>
  void value(std::string_view name, std::uint32_t type, T stored) {
    key(name, type);
    append<T>(keys, stored);
  }
  void u32(std::string_view name, std::uint32_t stored) { value(name, 4, stored); }
  void f32(std::string_view name, float stored) { value(name, 6, stored); }
  void text(std::string_view name, std::string_view stored) {
    key(name, 8);
    append_text(keys, stored);
  }
  void array(std::string_view name, std::uint32_t element_type, std::uint64_t count) {  // the elements are yours
    key(name, 9);
    append<std::uint32_t>(keys, element_type);
    append<std::uint64_t>(keys, count);
  }
  void info(std::string_view name, std::initializer_list<std::uint64_t> dims, std::uint32_t type,
            std::uint64_t offset) {
    append_text(infos, name);
    append<std::uint32_t>(infos, static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t dim : dims) append<std::uint64_t>(infos, dim);
    append<std::uint32_t>(infos, type);
    append<std::uint64_t>(infos, offset);
    ++num_tensors;
  }
  // An F32 tensor whose values are all `fill`, after the ones before it.
  void tensor(std::string_view name, std::initializer_list<std::uint64_t> dims, float fill = 0.5f) {
    data.resize((data.size() + alignment - 1) / alignment * alignment);
    info(name, dims, 0, data.size());
    std::uint64_t count = 1;
    for (const std::uint64_t dim : dims) count *= dim;
    for (std::uint64_t i = 0; i < count; ++i) append<float>(data, fill);
  }

  std::size_t header_bytes() const { return 24 + keys.size() + infos.size(); }
  Bytes build() const {
    Bytes out;
    append(out, magic);
    append(out, version);
    append(out, num_tensors);
    append(out, num_keys);
    out.insert(out.end(), keys.begin(), keys.end());
    out.insert(out.end(), infos.begin(), infos.end());
    if (num_tensors != 0) out.resize((out.size() + alignment - 1) / alignment * alignment);
    out.insert(out.end(), data.begin(), data.end());
    return out;
  }
};

// The smallest llama there is: one layer, hidden 16, two query heads and one key/value head of 8, vocabulary of 4.
// `skip` names a tensor or key to leave out.
inline GgufBuilder tiny_llama(std::string_view skip = "") {
  GgufBuilder gguf;
  const auto u32 = [&](std::string_view name, std::uint32_t stored) {
    if (name != skip) gguf.u32(name, stored);
  };
  const auto tensor = [&](std::string_view name, std::initializer_list<std::uint64_t> dims) {
    if (name != skip) gguf.tensor(name, dims);
  };
  if (skip != "general.architecture") gguf.text("general.architecture", "llama");
  u32("llama.block_count", 1);
  u32("llama.context_length", 64);
  u32("llama.embedding_length", 16);
  u32("llama.feed_forward_length", 24);
  u32("llama.attention.head_count", 2);
  u32("llama.attention.head_count_kv", 1);
  if (skip != "llama.attention.layer_norm_rms_epsilon") gguf.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  gguf.array("tokenizer.ggml.tokens", 8, 4);
  for (const char* token : {"a", "b", "", "long token"}) append_text(gguf.keys, token);
  tensor("token_embd.weight", {16, 4});
  tensor("output_norm.weight", {16});
  tensor("blk.0.attn_norm.weight", {16});
  tensor("blk.0.attn_q.weight", {16, 16});
  tensor("blk.0.attn_k.weight", {16, 8});
  tensor("blk.0.attn_v.weight", {16, 8});
  tensor("blk.0.attn_output.weight", {16, 16});
  tensor("blk.0.ffn_norm.weight", {16});
  tensor("blk.0.ffn_gate.weight", {16, 24});
  tensor("blk.0.ffn_up.weight", {16, 24});
  tensor("blk.0.ffn_down.weight", {24, 16});
  return gguf;
}

// A safetensors file: the header as given, then `data_bytes` bytes of 0x01.
inline Bytes safetensors(std::string_view header, std::size_t data_bytes) {
  Bytes out;
  append_text(out, header);
  out.resize(out.size() + data_bytes, std::byte{1});
  return out;
}

}  // namespace polykv::tests
