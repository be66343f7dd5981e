# Cards: saved, gone on from, looked at, checked, exported, made one; and all that is refused.
model=$SOURCE/fixtures/models/llama-gqa-q8_0.gguf
export POLYKV_MODEL="$model"
text='The keeper of the light wrote in the book every evening, and nobody read it until the winter was over.'
"$MAKE_POOL" base.pkv "$model" "$text"
status() { "$@"; echo "status $?"; }

"$POLYKV" ask base.pkv 'Who reads?' -n 20 --save one.pkv --bits 4 --sender "the first" > answers
"$POLYKV" ask one.pkv 'And who writes?' -n 20 --save two.pkv --json | sed 's/.*"card"/"card"/; s/"write_ms":[0-9.]*/"write_ms":_/; s/"pool".*//'
"$POLYKV" ask two.pkv 'When?' -n 20 --save three.pkv --bits auto:3 >> answers
ls *.pkv
[ "$(stat -c %a one.pkv)" = 600 ] || echo 'not 0600'

# What they are.
about() { "$POLYKV" inspect $1 | sed '/^  sections/,$d; /fingerprints/d'; }
about one.pkv | sed -n '/tokens  /,/shape/p; /card.bits/p; /parent.name/p; /prompt.turn/p'
"$POLYKV" inspect --json one.pkv | sed 's/.*"parent"/"parent"/; s/,"plan".*//; s/"token_bits":.*/"token_bits"/; s/"superblock_sha256":"[0-9a-f]*"/"superblock_sha256":"_"/'
about three.pkv | sed -n '/^  bits /,/^  text  /p; /^  plan/q' | sed 's/|.*|/|_|/'
"$POLYKV" verify one.pkv two.pkv three.pkv | sed 's/,.*//'
"$POLYKV" stats three.pkv | grep -A1 'with those'
"$POLYKV" stats --json three.pkv | grep -o '"chain":{[^}]*}'

# The chain, one pool of it, and what is exported of either are the same.
"$POLYKV" flatten three.pkv -o whole.pkv
"$POLYKV" verify --digest whole.pkv | sed 's/,.*//'
for pool in three whole; do
  "$POLYKV" ask $pool.pkv 'Why?' -n 20 > $pool.txt
  "$POLYKV" export $pool.pkv -o $pool.st > export.txt; cat export.txt
done
cmp three.txt whole.txt
tail -c 40000 three.st > a; tail -c 40000 whole.st | cmp - a
about whole.pkv | sed -n '/tokens  /,/shape/p; /prompt.turn/p; /document/p'
# Seeded, the same card comes out twice.
"$POLYKV" ask one.pkv 'And who writes?' -n 20 --save again.pkv > twice.txt; cmp two.pkv again.pkv && echo same

# A fork: others on the same card, which stays as it is.
cp one.pkv kept; "$POLYKV" ask one.pkv 'Where?' -n 5 --save fork.pkv > fork.txt; cmp one.pkv kept
"$POLYKV" inspect fork.pkv | grep extends

# Refused, with nothing left behind.
ls > before
status "$POLYKV" ask base.pkv 'Who?' --save one.pkv
status "$POLYKV" ask base.pkv 'Who?' --save base.pkv --force
status "$POLYKV" ask one.pkv 'Who?' --save base.pkv --force
status "$POLYKV" ask base.pkv 'Who?' 'Where?' --save new.pkv
status "$POLYKV" ask base.pkv 'Who?' --bits 4
status "$POLYKV" ask base.pkv 'Who?' --save new.pkv --bits 9
status "$POLYKV" ask base.pkv 'Who?' --save new.pkv --tail-retain streamingllm --tail-keep 8
status "$POLYKV" ask base.pkv 'Who?' -n 4 --save nowhere/new.pkv
status "$POLYKV" append base.pkv nothing.txt -o new.pkv
status "$POLYKV" append base.pkv before -o one.pkv
status "$POLYKV" append base.pkv before -o new.pkv --bits auto:4
status "$POLYKV" append base.pkv base.pkv --graft -o new.pkv
status "$POLYKV" append base.pkv one.pkv -o new.pkv
status "$POLYKV" build one.pkv -o new.pkv
status "$POLYKV" flatten base.pkv -o new.pkv
status "$POLYKV" stats --measure one.pkv
status "$POLYKV" bench one.pkv
ls | cmp - before

# Bits by the controller beside the model: where there is none, another model's, a broken one, and one that was made.
cp "$model" tiny.gguf
learned() {
  "$POLYKV" ask base.pkv 'Who reads?' -n 20 -m tiny.gguf --save learned.pkv --bits learned:4 --force > learned.txt
  echo "status $?"
}
learned
"$MAKE_POOL" wide.pkv "$model" 'Nobody wrote in the book but the keeper, and the light went out when the spring came.'
status "$POLYKV" calibrate --cards base.pkv -o tiny.controller.json
status "$POLYKV" calibrate --cards base.pkv gone.pkv -o tiny.controller.json
status "$POLYKV" calibrate --cards base.pkv wide.pkv -o nowhere/tiny.controller.json
"$POLYKV" calibrate --cards base.pkv wide.pkv -o tiny.controller.json --json | sed 's/,"tokens.*//'
status "$POLYKV" calibrate --cards base.pkv wide.pkv -o tiny.controller.json
ls tiny.*
learned
"$POLYKV" inspect learned.pkv | grep 'card.bits'
"$POLYKV" verify learned.pkv | sed 's/,.*//'
sed -i 's/"weights_digest": "../"weights_digest": "__/' tiny.controller.json
learned
printf '{"schema": 1' > tiny.controller.json
learned
echo '{"schema": "polykv.card-labels/1", "inputs": "00", "pools": []}' > tiny.controller.json.part
status "$POLYKV" calibrate --cards base.pkv wide.pkv -o tiny.controller.json --force -q
ls tiny.*
rm learned.* wide.pkv tiny.*

# A card on its own prefix again, and on another.
"$MAKE_POOL" other.pkv "$model" 'Somebody else kept the light for a year.'
for pool in base other; do
  "$POLYKV" append $pool.pkv one.pkv --graft -o on-$pool.pkv 2>&1 |
    sed 's/token [0-9.]* %, KL divergence [0-9.]*/token _/'
done
"$POLYKV" inspect on-other.pkv | grep 'card.graft'
"$POLYKV" stats on-other.pkv | grep -c '  graft '

# Parents that are elsewhere: found in the index, or in --pool-path; missing; changed.
mkdir away; mv one.pkv away; cp two.pkv away/two.pkv
export XDG_DATA_HOME=none
status "$POLYKV" verify two.pkv
status "$POLYKV" inspect two.pkv | sed -n '/extends/p; /status/p'
status "$POLYKV" ask two.pkv 'Who?' -n 4 -q
"$POLYKV" ask two.pkv 'Who?' -n 4 --pool-path away --pool-path . > a.txt
status "$POLYKV" verify away/two.pkv
"$POLYKV" verify away/two.pkv --pool-path . | sed 's/,.*//'
"$MAKE_POOL" one.pkv "$model" "$text"
status "$POLYKV" ask two.pkv 'Who?' -n 4
rm one.pkv; mv away/one.pkv .
printf '\377' | dd of=one.pkv bs=1 seek=5000 conv=notrunc 2> dd.txt
status "$POLYKV" ask two.pkv 'Who?' -n 4
