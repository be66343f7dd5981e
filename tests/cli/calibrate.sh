# What calibrate, and build with a plan, refuse: one line, the documented status, nothing left behind.
t() { "$POLYKV" "$@"; echo "exit $?"; }
model=$SOURCE/fixtures/models/llama-gqa-q8_0.gguf
t calibrate
t calibrate a.txt
t calibrate a.txt -o plan.json --keep 35
t calibrate a.txt -o plan.json --preference taste
t calibrate a.txt -o plan.json --sensitivity cosine
t calibrate a.txt -o plan.json -m "$model"
: > empty.txt
t calibrate empty.txt -o plan.json -m "$model"
echo 'A short text.' > a.txt
t calibrate a.txt -o plan.json -m gone.gguf
t calibrate a.txt -o plan.json -m "$model"
echo kept > plan.json
t calibrate a.txt -o plan.json -m "$model"
cat plan.json
t build a.txt -o a.pkv -m "$model" --retain plan.json
t build a.txt -o a.pkv -m "$model" --retain gone.json
t build a.txt -o a.pkv -m "$model" --retain ./gone+uniform
t build a.txt -o a.pkv -m "$model" --retain plan.json+ada 2>&1 | sed 's/: auto, .*streamingllm.*; with/: ...; with/'
plan() { # $1 the weights' digest, $2 the second layer's policy, $3 what comes after its layers
  cat << END
{"schema": "polykv.retention-plan/1", "model": {"name": "tiny", "weights_digest": "$1"},
 "calibration": {"texts": [], "keep": 512, "preference": "cosine", "sensitivity": "entropy", "floor": 36, "epsilon": 1e-6},
 "phases": {"prefill": {"layers": [{"layer": 0, "policy": "h2o", "sensitivity": 1},
                                   {"layer": 1, "policy": "$2", "sensitivity": 2}$3]}}}
END
}
digest=$(sha256sum < "$model" | cut -d' ' -f1)
plan "$digest" snap "" > plan.json
t build a.txt -o a.pkv -m "$model" --retain plan.json
plan 00 snapkv "" > plan.json
t build a.txt -o a.pkv -m "$model" --retain plan.json 2>&1 | sed "s/$digest/DIGEST/"
plan "$digest" snapkv "" > plan.json
t build a.txt -o a.pkv -m "$model" --retain plan.json
t build a.txt -o a.pkv -m "$model" --retain plan.json+uniform --keep some
t ask a.pkv 'Who?' -m "$model" --tail-retain plan.json
t ask a.pkv 'Who?' -m "$model" --tail-retain plan.jso --tail-keep 64
t ask a.pkv 'Who?' -m "$model" --tail-retain h2o --tail-keep 64
t ask a.pkv 'Who?' -m "$model" --tail-retain tova
t ask a.pkv 'Who?' -m "$model" --tail-keep 64
t build a.txt -o a.pkv -m "$model" --retain snapkv+ada --bits 1
t build a.txt -o a.pkv -m "$model" --retain auto
t build a.txt -o a.pkv -m "$model" --retain auto --codec k4v4
plan "$digest" snapkv ',' > plan.json
t build a.txt -o a.pkv -m "$model" --retain plan.json
plan "$digest" snapkv '' | sed 's:plan/1:plan/2:' > plan.json
t build a.txt -o a.pkv -m "$model" --retain plan.json
ls
