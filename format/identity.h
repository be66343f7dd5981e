// Who made the pool, from what, for which model: fields in clear, and fingerprints over groups of them.
//
// A field's name is GROUP.NAME; a group's fingerprint is SHA-256 over a domain string and its fields, sorted and
// length-prefixed (spec/pool-format.md, "Identity"). So a mismatch can say which field differs, and a new field needs
// no code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/checksum.h"
#include "format/status.h"

namespace polykv::format {

// Groups, in the order in which a difference is reported:
//   model      name, architecture, weights (SHA-256 of the weights file or files, hex), shape and arithmetic in clear
//   rope       theta, scaling and its parameters
//   adapters   list of adapters; empty for now, so that a later one is a different fingerprint
//   tokenizer  SHA-256 of vocabulary, merges, types; pre-tokenizer; normalizer; BOS policy
//   template   name, SHA-256 of the model's template text, system turn
//   codec      codec pair or plan, rotation and codebook ids
//   prefill    number type, runner, prefill attention: informative, in no fingerprint
//   document   count, per document name and bytes: informative, in no fingerprint but the document's own
//   writer     program and version, informative
class Identity {
 public:
  // Names: printable ASCII, 1 to 256 bytes, with one dot or more; values: UTF-8 up to 64 KiB; 1 MiB in all.
  void set(std::string name, std::string value) { fields_[std::move(name)] = std::move(value); }
  std::optional<std::string_view> get(std::string_view name) const;
  const std::map<std::string, std::string, std::less<>>& fields() const { return fields_; }

  // SHA-256("polykv/" + domain + "/1", then the fields of `groups` sorted and length-prefixed).
  Digest fingerprint(std::string_view domain, std::span<const std::string_view> groups) const;
  Digest model_fingerprint() const;      // model, rope, adapters
  Digest tokenizer_fingerprint() const;  // tokenizer, template
  Digest codec_fingerprint() const;      // codec

  // The first field, in group order, that differs between this and `other` in the groups that must match for a pool to
  // be used (model, rope, adapters, tokenizer, template); nullopt if none.
  struct Difference {
    std::string name, mine, theirs;  // "(absent)" where one side lacks it
  };
  std::optional<Difference> first_difference(const Identity& other) const;

  std::vector<std::byte> serialize() const;
  // kBadIdentity, kLimitExceeded; names strictly ascending.
  static Result<Identity> parse(std::span<const std::byte> bytes);

 private:
  std::map<std::string, std::string, std::less<>> fields_;
};

std::string to_hex(std::span<const std::uint8_t> bytes);

}  // namespace polykv::format
