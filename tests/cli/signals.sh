# Ctrl-C and SIGTERM end with 130 and 143; a pool that is cut while it is read ends with 4, not with a signal.
"$MAKE_POOL" a.pkv 16 2 64 4000 k5v4 1
for signal in INT TERM; do
  { timeout --foreground --preserve-status -s $signal 1 "$POLYKV" export a.pkv -o -; echo "exit $?" > status; } |
    { sleep 2; cat > /dev/null; }
  cat status
done
{ "$POLYKV" export a.pkv -o -; echo "exit $?" > status; } |
  { head -c 100000 > /dev/null; truncate -s 8192 a.pkv; cat > /dev/null; }
cat status
ls -A
