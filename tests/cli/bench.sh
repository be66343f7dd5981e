# Every figure of bench is there and above zero; what cannot be measured with is refused. How large they are is not a
# matter for a test.
model=$SOURCE/fixtures/models/llama-gqa-q8_0.gguf
text='The keeper of the light wrote in the book every evening, and nobody read it until the winter was over.'
"$MAKE_POOL" a.pkv "$model" "$text"
t() { "$POLYKV" bench "$@"; echo "exit $?"; }

# Numbers above zero of these names become N; the cold start cannot be measured everywhere.
measured='ms|gb_s|read_share|f16_ms|ratio|tok_s|open_ms|first_step_ms|private_bytes|pool_bytes|weight_bytes'
steady() {
  sed -E "s/\"cold\":(null|\{\"open_ms\":[0-9.e-]+,\"first_step_ms\":[0-9.e-]+\})/\"cold\":C/
          s/\"($measured)\":[0-9.]*[1-9][0-9.]*(e[-+][0-9]+)?/\"\1\":N/g
          s/\"kernels\":\"[a-z0-9]+\"/\"kernels\":K/; s/\},\{/},\n{/g"
}
t a.pkv -m "$model" -t 2 --json 2>&1 | steady
# At the pool's end, all of its pages are read.
"$POLYKV" inspect --json a.pkv | grep -o '"name":"pages"[^}]*'
POLYKV_MODEL=$model t a.pkv -t 1 --kernels scalar 2>&1 | sed -E '/cold start/s/start.*/start C/; s/[0-9][0-9.,]*/N/g; s/[kM]B/B/g; s/ +/ /g'

t
t a.pkv b.pkv
t a.pkv --agents 2
t a.pkv -m "$model" -t 0
t gone.pkv -m "$model"
t a.pkv -m gone.gguf
t a.pkv
t a.pkv -m "$SOURCE/fixtures/models/qwen2-gqa-q4_1.gguf" 2>&1 | sed 's/[0-9a-f]\{64\}/DIGEST/g'
echo text > text.pkv
t text.pkv -m "$model"
chmod 666 a.pkv
t a.pkv -m "$model"
for signal in INT TERM; do
  timeout --foreground --preserve-status -s $signal 1 "$POLYKV" bench a.pkv -m "$model" --trust; echo "exit $?"
done
ls
