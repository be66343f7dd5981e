#include "cli/error_table.h"

namespace polykv::cli {

std::span<const ExitStatusRow> exit_statuses() {
  static constexpr ExitStatusRow kTable[] = {
      {0, "done", ""},
      {1, "the check said no, or a runtime failure: an unusable document or question, some items failed", ""},
      {2, "usage", "see polykv COMMAND --help"},
      {3, "input or output: a missing, existing or unwritable file, a full disk", ""},
      {4, "not a pool, unfinished or truncated, or a pool that became shorter while in use", "build it again"},
      {5, "corrupt: a checksum or a structural rule, or a pool or model changed while in use", "build it again"},
      {6, "needs another version of polykv, or is not supported", "the message says what would do"},
      {7, "unsafe owner or mode", "chmod o-w, or --trust"},
      {8, "reserved for signatures", ""},
      {9, "published, but it may not survive a power failure", "sync, then verify"},
      {10, "does not fit: the model, the tokenizer or the template differs", "name the model with -m, or build again"},
      {130, "interrupted", ""},
      {143, "terminated", ""},
  };
  return kTable;
}

std::span<const ErrorCodeRow> error_codes() {
  using enum format::ErrorCode;
  static constexpr ErrorCodeRow kTable[] = {
      {kFailed, "a runtime failure with no code of its own"},
      {kUnusableText, "a document or question that cannot be used: empty, not UTF-8, too long"},
      {kNotFinite, "keys or values that are not finite, or too large for float16"},
      {kReadBack, "the pool written does not read back as it was written"},
      {kNoTorch, "LibTorch, needed for a prefill, was not found"},
      {kItemsFailed, "some of several items failed; each was reported"},
      {kUsage, "a command line that cannot be followed"},
      {kNotFound, "a file that is not there"},
      {kExists, "an output that exists already, without --force"},
      {kIo, "a read or write that failed"},
      {kNoSpace, "a full disk"},
      {kNotRegularFile, "a folder or device where a model or document is expected"},
      {kNotAPool, "not a pool"},
      {kUnfinished, "a build did not finish"},
      {kTruncated, "shorter or longer than it says, or its tail is missing"},
      {kShrunk, "a pool that became shorter while in use"},
      {kNotAFile, "the pool's path is a folder, a FIFO or a device"},
      {kBadChecksum, "a checksum differs"},
      {kMalformed, "a field with an impossible value"},
      {kLimitExceeded, "a count or size above the format's limit"},
      {kBadReserved, "reserved or padding bytes that are not zero"},
      {kBadSectionTable, "sections that overlap, leave a hole or are out of order"},
      {kBadSectionSize, "a section whose size contradicts the header or the layout"},
      {kBadIdentity, "an identity section that is not well formed"},
      {kBadFingerprint, "a fingerprint that is not that of the stored fields"},
      {kBadTokens, "a tokens section that is not well formed"},
      {kBadLayout, "a layout section that is not well formed"},
      {kBadSource, "a source text that does not decompress"},
      {kBadPadding, "an unused slot of a page that is not zero"},
      {kBadDigest, "a SHA-256 digest differs"},
      {kChanged, "a pool or model that was changed while in use"},
      {kBadModelFile, "a damaged or contradictory model file"},
      {kUnsupportedVersion, "a format version that this polykv does not read"},
      {kUnsupportedFeature, "a feature that this polykv does not know"},
      {kForeignByteOrder, "written on a big-endian machine"},
      {kUnknownSection, "a section that must be understood and is not known"},
      {kUnknownAlgorithm, "a checksum or digest algorithm that is not known"},
      {kUnknownCodec, "a codec that is not known"},
      {kUnsupportedModel, "a model's architecture, tensor type, RoPE scaling or shape that is not supported"},
      {kUnsupportedTokenizer, "a tokenizer that is not supported"},
      {kUnknownTemplate, "a chat template that is not known"},
      {kUnsupportedKernels, "kernels that this machine does not have"},
      {kUnsafeFile, "a pool that others may write to, or that belongs to somebody else"},
      {kNotDurable, "published, but it may not survive a power failure"},
      {kMismatch, "the pool was built for another model, tokenizer or template"},
      {kInterrupted, "interrupted"},
      {kTerminated, "terminated"},
  };
  return kTable;
}

}  // namespace polykv::cli
