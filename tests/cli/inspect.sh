# What inspect and stats print, whole; the pool is the same on every machine.
"$MAKE_POOL" a.pkv 3 2 64 1000 k5v4 7
"$POLYKV" inspect a.pkv
"$POLYKV" inspect --json a.pkv
"$POLYKV" stats --agents 15 a.pkv
"$POLYKV" stats --json a.pkv
"$MAKE_POOL" tiny.pkv 1 1 8 3 k8v3 7
"$POLYKV" inspect --json tiny.pkv
"$POLYKV" stats tiny.pkv a.pkv
