# Answers come in the order of the questions, and are the same however many are in work at once.
model=$SOURCE/fixtures/models/llama-gqa-q8_0.gguf
export POLYKV_MODEL="$model"
text='The keeper of the light wrote in the book every evening, and nobody read it until the winter was over.'
"$MAKE_POOL" a.pkv "$model" "$text"

# Without what differs from run to run: times and speeds.
steady() { sed 's/"load_ms":.*"pool"/"pool"/'; }
ids() { sed 's/.*"id":\([^,]*\),.*"error":\(null\|{"code":[0-9]*\).*/\1 \2/'; }

# Long and short questions, one that is empty, no JSON object, not UTF-8, or too long for the context.
i=0
while [ $i -lt 12 ]; do
  i=$((i + 1))
  echo "Question $i $(head -c $((i * 23)) /dev/zero | tr '\0' 'a')?"
  [ $i = 3 ] && printf '\n{"id": "json", "question": "Who reads it?"}\n{"question": 5}\n'
  [ $i = 5 ] && printf 'not \377 UTF-8\n'
  [ $i = 9 ] && { head -c 3000 /dev/zero | tr '\0' 'b'; echo; }
done > questions.txt
for options in '' '--temp 1' '--stop e'; do
  "$POLYKV" ask a.pkv --jsonl -n 20 $options --seed 7 < questions.txt 2>&1 | steady > one; echo "options: $options"
  for agents in 2 15 64; do
    "$POLYKV" ask a.pkv --jsonl -n 20 $options --seed 7 --agents $agents -t 3 < questions.txt | steady | cmp - one
  done
done
"$POLYKV" ask a.pkv --jsonl -n 20 --agents 4 < questions.txt > out; echo "exit $?"
ids < out

# A question and its seed, alone, repeat what they gave among others.
sed -n 4p one | sed 's/.*"answer"/"answer"/' > among
"$POLYKV" ask a.pkv --json -n 20 --stop e --seed 7 'Who reads it?' | steady | sed 's/.*"answer"/"answer"/' | cmp - among

# Text mode: the same text, in the same order; errors in their place on standard error.
for agents in 1 5; do
  "$POLYKV" ask a.pkv -n 20 --agents $agents < questions.txt > text.$agents 2> errors.$agents; echo "exit $?"
done
cmp text.1 text.5
[ -s text.1 ] || echo 'no text'
cat errors.5; cmp errors.1 errors.5

# An answer comes as soon as it is there, though the pipe stays open and the next question is long in coming; no line
# beyond the next question's is waited for.
mkfifo in out.fifo
"$POLYKV" ask a.pkv --jsonl -n 5 --agents 4 < in > out.fifo &
exec 3> in 4< out.fifo
for question in first second third; do
  echo $question >&3
  printf 'half a line' >&3
  read -r line <&4; echo "$line" | ids
  echo >&3  # the other half
  read -r line <&4; echo "$line" | ids
done
exec 3>&-
wait $!; echo "exit $?"
exec 4<&-

# What never becomes a line is refused, and the end is not waited for, though the pipe stays open.
for options in '' --jsonl --json; do
  "$POLYKV" ask a.pkv $options < in > out &
  exec 3> in
  { [ "$options" = --json ] || echo 'A question'; head -c 5000000 /dev/zero | tr '\0' y; } >&3 2> /dev/null
  wait $!; echo "exit $?"
  exec 3>&-
  tail -n 1 out | sed 's/.*"id"/"id"/;s/"stop_reason".*"error"/"error"/' | cut -c 1-200
done

# Ends: a signal, a reader that goes away, a pipe without end of questions that fail.
for signal in INT TERM; do
  yes 'And then?' | timeout --foreground --preserve-status -s $signal 1 "$POLYKV" ask a.pkv --agents 7 --jsonl -n 50 > many
  echo "exit $?"
done
{ yes 'And then?' | "$POLYKV" ask a.pkv --agents 7 --jsonl; echo "exit $?" > status; } | head -n 3 | ids
cat status
{ echo 'A question'; yes '{'; } | "$POLYKV" ask a.pkv --agents 7 --jsonl -n 100 | head -n 2 | ids

for agents in 0 65 x -1; do "$POLYKV" ask a.pkv --jsonl --agents $agents Hello; echo "exit $?"; done
POLYKV_AGENTS=2 "$POLYKV" ask a.pkv --jsonl -n 2 one two three | ids
POLYKV_AGENTS=100 "$POLYKV" ask a.pkv --jsonl Hello; echo "exit $?"
"$POLYKV" ask a.pkv --jsonl --agents 3 < /dev/null; echo "exit $?"
