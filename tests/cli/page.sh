# The pictures: the chart of a plan, and the page, to a file or to standard output; nothing is replaced unasked.
cat > fidelity.json <<END
{"tail": {"positions": 2, "kld_mean": 0.002, "kld_stderr": 0.0005, "kld_by_position": [0.001, 0.003]},
 "plan": {"choice": "auto 4.25 bits", "rows": 256,
          "sensitivities": {"key": [0.1, 0.2, 0.3, 0.4], "value": [0.4, 0.3, 0.2, 0.1]}}}
END
"$MAKE_POOL" a.pkv 2 2 64 300 mixed 1 fidelity.json
"$POLYKV" inspect a.pkv | sed -n '/codec  /,/fidelity/p'
"$POLYKV" stats a.pkv --html a.html | head -n 3
stat -c '%a' a.html
grep -c '<figure>' a.html
sed -n 's/<h2>\(.*\)<.h2>/\1/p' a.html
"$POLYKV" stats a.pkv --html - | cmp - a.html
"$POLYKV" stats a.pkv --html a.html; echo "exit $?"
"$POLYKV" stats a.pkv --html a.html --force --json | cut -c1-40; echo "exit $?"
"$POLYKV" stats a.pkv --html a.pkv --force; echo "exit $?"
"$POLYKV" stats a.pkv a.pkv --html b.html; echo "exit $?"
"$POLYKV" stats a.pkv --html - --json; echo "exit $?"
"$POLYKV" stats a.pkv --html - > /dev/full; echo "exit $?"
"$POLYKV" stats none.pkv --html b.html; echo "exit $?"
(ulimit -f 1; trap '' XFSZ; "$POLYKV" stats a.pkv --html b.html; echo "exit $?") 2>&1 | cat
ls -A
