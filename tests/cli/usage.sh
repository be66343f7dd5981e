# Every usage error is one line on standard error and exit status 2.
t() { "$POLYKV" "$@"; echo "exit $?"; }
t
t verfy a.pkv
t frobnicate
t -v
t verify
t verify --jsno a.pkv
t build doc.txt
t build doc.txt -o
t build doc.txt -o x.pkv --codec k9v9
t build doc.txt -o x.pkv --no-probes
t ask a.pkv --agents 65
t ask a.pkv --json --jsonl
t ask a.pkv --temp warm
t stats a.pkv --text notes.txt
t verify --deep a.pkv
t export a.pkv
t completion tcsh
t help bild
POLYKV_THREADS=many t build doc.txt -o x.pkv
t verify --kernels nonesuch a.pkv 2>/dev/null
ls
