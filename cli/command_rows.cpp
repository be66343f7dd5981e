#include "cli/command_rows.h"

namespace polykv::cli {

OptionSpec model_option() {
  return {.letter = 'm',
          .name = "model",
          .value = "PATH",
          .target = &Options::model,
          .kind = ValueKind::kPath,
          .environment = "POLYKV_MODEL",
          .help =
              "The model: a GGUF file or a Hugging Face folder. Without it: the model whose fingerprint the pool "
              "holds, from your index of models, or the default model if it fits."};
}

OptionSpec threads_option() {
  return {
      .letter = 't',
      .name = "threads",
      .value = "N",
      .target = &Options::threads,
      .kind = ValueKind::kCount,
      .environment = "POLYKV_THREADS",
      .minimum = 1,
      .maximum = 1024,
      .help = "Threads to work with. Without it: what the CPU affinity and the CPU quota of the control group allow."};
}

OptionSpec prefill_type_option() {
  return {.name = "prefill-type",
          .value = "TYPE",
          .target = &Options::prefill_type,
          .kind = ValueKind::kChoice,
          .environment = "POLYKV_PREFILL_TYPE",
          .choices = {"f32", "bf16"},
          .help =
              "The number type of the prefill: f32 or bf16. Without it: bf16 where the CPU has instructions for it, "
              "else f32. The pool records it."};
}

OptionSpec mode_option() {
  return {.name = "mode",
          .value = "MODE",
          .target = &Options::mode,
          .kind = ValueKind::kOctal,
          .fallback = "0600",
          .environment = "POLYKV_MODE",
          .help = "Permissions of the pool, in octal, whatever the umask."};
}

OptionSpec sender_option(const char* help) {
  return {.name = "sender",
          .value = "NAME",
          .target = &Options::sender,
          .kind = ValueKind::kText,
          .environment = "POLYKV_SENDER",
          .help = help};
}

OptionSpec card_bits_option(const char* help) {
  return {.name = "bits",
          .value = "B",
          .target = &Options::card_bits,
          .kind = ValueKind::kText,
          .environment = "POLYKV_CARD_BITS",
          .help = help};
}

OptionSpec pool_path_option() {
  return {.name = "pool-path",
          .value = "FOLDER",
          .target = &Options::pool_path,
          .kind = ValueKind::kPath,
          .environment = "POLYKV_POOL_PATH",
          .help =
              "Where to look for a pool that a card extends, after the card's own folder and before your index of "
              "pools. May be given several times."};
}

OptionSpec json_option(const char* help) { return {.name = "json", .target = &Options::json, .help = help}; }

OptionSpec force_option() {
  return {.letter = 'f', .name = "force", .target = &Options::force, .help = "Replace an existing output file."};
}

}  // namespace polykv::cli
