# A reader of standard output that goes away is no error; a full disk is; nothing is half-written.
"$MAKE_POOL" a.pkv 8 2 64 4000 k5v4 1
{ "$POLYKV" export a.pkv -o -; echo "exit $?" > status; } | head -c 1000 | wc -c
cat status
{ "$POLYKV" help ask; echo "exit $?" > status; } | head -n 1
cat status
"$POLYKV" inspect a.pkv > /dev/full; echo "exit $?"
"$POLYKV" export a.pkv -o - > /dev/full; echo "exit $?"
"$POLYKV" export a.pkv -o - > piped.safetensors; echo "exit $?"
"$POLYKV" export a.pkv -o file.safetensors; echo "exit $?"
cmp piped.safetensors file.safetensors
"$POLYKV" export a.pkv -o file.safetensors; echo "exit $?"
"$POLYKV" export a.pkv -o a.pkv --force; echo "exit $?"
stat -c '%a' file.safetensors
(ulimit -f 1; trap '' XFSZ; "$POLYKV" export a.pkv -o limited.safetensors; echo "exit $?") 2>&1 | sed 's/: .*export.*//;s/cannot.*/cannot/'
ls -A
